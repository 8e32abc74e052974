"""Results go to destinations, which commit to them. Each function works in its caller's transaction."""

from __future__ import annotations

import sqlite3

from med_transfer.hospital import record
from med_transfer.hospital.queue.kinds import Delivery


def deliveries(database: sqlite3.Connection, where: str, *values: object, most: int = -1) -> list[Delivery]:
    """Those that the condition names, the most urgent first; no more than ``most``, where that is not -1."""
    query = (
        "SELECT sop_uid, sop_class, file, study, destination, delivery.state, delivery.attempts, may_be_there "
        f"FROM delivery JOIN result USING (sop_uid) JOIN study ON study.id = result.study WHERE {where} "
        f"ORDER BY priority DESC, result.rowid LIMIT {most}"
    )
    return [Delivery(*row) for row in database.execute(query, values)]


# Of the answer to any question about it: an archive may take longer to commit than until it is asked again.
ASKED_UNDER = "instr(' ' || transaction_uid || ' ', ' ' || ? || ' ') AND delivery.state IN ('sent', 'dead')"
_OUTDATED = (  # a later revision takes its place: to send it then, or again, would bring back what was taken back
    "EXISTS (SELECT 1 FROM result JOIN study ON study.id = result.study "
    "WHERE result.sop_uid = delivery.sop_uid AND result.revision < study.revision)"
)


_UNANSWERED = ("no_answer", "not_confirmed", "answer_not_understood", "http_5", "refused_http_5")


def begin(database: sqlite3.Connection, delivery: Delivery) -> bool:
    """It is about to go out, and may be there from now on, whatever becomes of the node; False: it waits no more."""
    begun = database.execute(
        "UPDATE delivery SET may_be_there = 1 WHERE sop_uid = ? AND destination = ? AND state = 'waiting'",
        (delivery.sop_uid, delivery.destination),
    )
    return bool(begun.rowcount)


def settle(database: sqlite3.Connection, delivery: Delivery, state: str, now: float) -> None:
    """The destination has taken it, or commits to it; who takes it and refuses to commit does so only so often."""
    changed = database.execute(
        "UPDATE delivery SET state = ?1, attempts = attempts * (?1 = 'sent' AND transaction_uid != ''), next_try = 0, "
        "reason = '', may_be_there = 1 WHERE sop_uid = ?2 AND destination = ?3 AND state NOT IN (?1, 'committed')",
        (state, delivery.sop_uid, delivery.destination),
    )
    if changed.rowcount:
        _say(database, state, delivery)
        follow(database, delivery.study, now)


def fail(
    database: sqlite3.Connection, delivery: Delivery, reason: str, now: float, next_try: float, dead: bool
) -> None:
    """It waits for its next try, or is a dead letter; superseded where a later revision takes its place.

    Whether it may be there is as before this try, unless nobody can say what became of that.
    """
    may_be_there = delivery.may_be_there or reason.startswith(_UNANSWERED)
    states = database.execute(
        "UPDATE delivery SET attempts = attempts + 1, next_try = ?, reason = ?, may_be_there = ?, "
        f"state = CASE WHEN {_OUTDATED} THEN 'superseded' ELSE ? END "
        "WHERE sop_uid = ? AND destination = ? AND state NOT IN ('superseded', 'committed') RETURNING state",
        (next_try, reason, may_be_there, "dead" if dead else "waiting", delivery.sop_uid, delivery.destination),
    ).fetchall()
    if ("dead",) in states:
        _say(database, "dead letter", delivery, reason=reason)
    follow(database, delivery.study, now)


def ask(
    database: sqlite3.Connection, delivery: Delivery, transaction_uid: str, ask_again: float, dead: bool, now: float
) -> None:
    """Commitment is asked for under this UID, too; ``dead``: for the last time, and no answer has come before."""
    changed = database.execute(
        "UPDATE delivery SET transaction_uid = trim(transaction_uid || ' ' || ?), next_try = ?, "
        "attempts = attempts + 1 WHERE sop_uid = ? AND destination = ? AND state = 'sent'",
        (transaction_uid, ask_again, delivery.sop_uid, delivery.destination),
    )
    if dead and changed.rowcount:
        fail(database, delivery, "no_commitment", now, ask_again, dead=True)


def follow(database: sqlite3.Connection, study: str, now: float) -> None:
    """The study is where its slowest delivery is."""
    rows = database.execute(
        "SELECT delivery.state, commitment, delivery.reason FROM delivery JOIN result USING (sop_uid) "
        "JOIN study ON study.id = result.study WHERE study.id = ? AND result.revision = study.revision "
        "AND study.state IN ('predicted', 'sent', 'committed', 'dead')",
        (study,),
    ).fetchall()
    if not rows:
        return
    states, reason = {row[0] for row in rows}, next((row[2] for row in rows if row[2]), "")
    if "dead" in states or "waiting" in states:
        state = "dead" if "dead" in states else "predicted"
    else:
        state = "sent" if "sent" in {row[0] for row in rows if row[1]} or "committed" not in states else "committed"
    database.execute("UPDATE study SET state = ?, reason = ?, changed = ? WHERE id = ?", (state, reason, now, study))


def abandon(database: sqlite3.Connection, destinations: list[str], now: float) -> int:
    """What waits for a destination that there is no more, or for its commitment, is a dead letter; how many results."""
    marks = ", ".join("?" for _ in destinations)
    where = f"delivery.state IN ('waiting', 'sent') AND destination NOT IN ({marks})"
    gone = deliveries(database, f"{where} AND (delivery.state = 'waiting' OR commitment)", *destinations)
    for delivery in gone:
        fail(database, delivery, "no_destination", now, 0.0, dead=True)
    return len(gone)


def release(database: sqlite3.Connection, destinations: list[str], now: float) -> int:
    """Only these are asked for commitment now: what others were to commit to is done once it is sent; how many."""
    marks = ", ".join("?" for _ in destinations)
    where = f"commitment AND delivery.state IN ('waiting', 'sent') AND destination NOT IN ({marks})"
    released = deliveries(database, where, *destinations)
    for delivery in released:
        database.execute(
            "UPDATE delivery SET commitment = 0 WHERE sop_uid = ? AND destination = ?",
            (delivery.sop_uid, delivery.destination),
        )
        _say(database, "commitment not asked for any more", delivery)
        follow(database, delivery.study, now)
    return len(released)


def retry(database: sqlite3.Connection, study: str) -> int:
    """Dead letters, and what waits for its next try, are due at once: of one study, or of all; how many."""
    one = (study, study)
    studies = database.execute(
        "UPDATE study SET state = 'complete', attempts = 0, next_try = 0, reason = '' WHERE (id = ? OR ? = '') "
        "AND (state = 'complete' AND attempts > 0 OR state = 'dead' AND id NOT IN "
        "(SELECT study FROM result WHERE result.revision = study.revision))",
        one,
    )
    sending = database.execute(
        "UPDATE delivery SET state = 'waiting', attempts = 0, next_try = 0, reason = '' WHERE "
        "(state = 'dead' OR state = 'waiting' AND attempts > 0) AND sop_uid IN "
        "(SELECT sop_uid FROM result WHERE study = ? OR ? = '')",
        one,
    )
    database.execute(
        "UPDATE study SET state = 'predicted', reason = '' WHERE (id = ? OR ? = '') AND state = 'dead'", one
    )
    database.execute("UPDATE workitem SET attempts = 0, next_try = 0 WHERE study = ? OR ? = ''", one)
    count = studies.rowcount + sending.rowcount
    if count:
        record.append(database, "retried", study=study or "all", count=count)
    return count


def _say(database: sqlite3.Connection, event: str, delivery: Delivery, **facts: object) -> None:
    own = {"study": delivery.study, "sop_uid": delivery.sop_uid, "destination": delivery.destination}
    record.append(database, event, **own, **facts)
