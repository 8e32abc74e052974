"""Deliveries of results, and storage commitment. Each function works in its caller's transaction."""

from __future__ import annotations

import sqlite3

from med_transfer.hospital import record
from med_transfer.hospital.queue.kinds import Delivery


def deliveries(database: sqlite3.Connection, where: str, *values: object, limit: int = -1) -> list[Delivery]:
    """Deliveries that match an SQL condition, most urgent first; at most ``limit``, -1 for all."""
    query = (
        "SELECT sop_uid, sop_class, file, study, destination, delivery.state, delivery.attempts, may_be_there "
        f"FROM delivery JOIN result USING (sop_uid) JOIN study ON study.id = result.study WHERE {where} "
        f"ORDER BY priority DESC, result.rowid LIMIT {limit}"
    )
    return [Delivery(*row) for row in database.execute(query, values)]


# Matches the UID of any request so far: an archive may answer only after it has been asked again.
HAS_TRANSACTION_UID = "instr(' ' || transaction_uid || ' ', ' ' || ? || ' ') AND delivery.state IN ('sent', 'dead')"
_OUTDATED = (  # replaced by a later revision: sending it now would restore a withdrawn answer
    "EXISTS (SELECT 1 FROM result JOIN study ON study.id = result.study "
    "WHERE result.sop_uid = delivery.sop_uid AND result.revision < study.revision)"
)
_UNANSWERED = ("no_answer", "not_confirmed", "answer_not_understood", "http_5", "refused_http_5")


def begin(database: sqlite3.Connection, delivery: Delivery) -> bool:
    """Note that a delivery is about to be sent and may be there from now on; return False if it no longer waits."""
    begun = database.execute(
        "UPDATE delivery SET may_be_there = 1 WHERE sop_uid = ? AND destination = ? AND state = 'waiting'",
        (delivery.sop_uid, delivery.destination),
    )
    return bool(begun.rowcount)


def settle(database: sqlite3.Connection, delivery: Delivery, state: str, now: float) -> None:
    """Note that the destination has accepted a delivery (``sent``) or committed to it.

    The count of attempts is kept after a request for commitment, so that a destination which accepts the result but
    refuses to commit is not tried forever.
    """
    changed = database.execute(
        "UPDATE delivery SET state = ?1, attempts = attempts * (?1 = 'sent' AND transaction_uid != ''), next_try = 0, "
        "reason = '', may_be_there = 1 WHERE sop_uid = ?2 AND destination = ?3 AND state NOT IN (?1, 'committed')",
        (state, delivery.sop_uid, delivery.destination),
    )
    if changed.rowcount:
        _record(database, state, delivery)
        follow(database, delivery.study, now)


def fail(
    database: sqlite3.Connection, delivery: Delivery, reason: str, now: float, next_try: float, dead: bool
) -> None:
    """Schedule the next attempt at a delivery, or make it a dead letter; superseded if a later revision replaces it.

    ``may_be_there`` returns to its value before this attempt, unless the outcome of the attempt is unknown.
    """
    may_be_there = delivery.may_be_there or reason.startswith(_UNANSWERED)
    states = database.execute(
        "UPDATE delivery SET attempts = attempts + 1, next_try = ?, reason = ?, may_be_there = ?, "
        f"state = CASE WHEN {_OUTDATED} THEN 'superseded' ELSE ? END "
        "WHERE sop_uid = ? AND destination = ? AND state NOT IN ('superseded', 'committed') RETURNING state",
        (next_try, reason, may_be_there, "dead" if dead else "waiting", delivery.sop_uid, delivery.destination),
    ).fetchall()
    if ("dead",) in states:
        _record(database, "dead letter", delivery, reason=reason)
    follow(database, delivery.study, now)


def ask(
    database: sqlite3.Connection, delivery: Delivery, transaction_uid: str, ask_again: float, dead: bool, now: float
) -> None:
    """Note another request for commitment, under this UID; with ``dead`` it is the last, as none was answered."""
    changed = database.execute(
        "UPDATE delivery SET transaction_uid = trim(transaction_uid || ' ' || ?), next_try = ?, "
        "attempts = attempts + 1 WHERE sop_uid = ? AND destination = ? AND state = 'sent'",
        (transaction_uid, ask_again, delivery.sop_uid, delivery.destination),
    )
    if dead and changed.rowcount:
        fail(database, delivery, "no_commitment", now, ask_again, dead=True)


def follow(database: sqlite3.Connection, study: str, now: float) -> None:
    """Set the study's state to that of its slowest delivery."""
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
    """Make deliveries that wait for any other destination, or for its commitment, dead letters; return how many."""
    marks = ", ".join("?" for _ in destinations)
    where = f"delivery.state IN ('waiting', 'sent') AND destination NOT IN ({marks})"
    gone = deliveries(database, f"{where} AND (delivery.state = 'waiting' OR commitment)", *destinations)
    for delivery in gone:
        fail(database, delivery, "no_destination", now, 0.0, dead=True)
    return len(gone)


def redirect(database: sqlite3.Connection, old: str, new: tuple[str, bool], now: float) -> int:
    """Send what ``old`` has not stored to ``new``, whether or not it is to commit; return how many results.

    A result that goes to ``new`` anyway is only no longer owed to ``old``.
    """
    destination, commitment = new
    owed = "(delivery.state IN ('waiting', 'dead') OR delivery.state = 'sent' AND commitment)"
    moved = deliveries(database, f"destination = ? AND {owed} AND NOT {_OUTDATED}", old)
    for delivery in moved:
        one = (delivery.sop_uid, old)
        database.execute(
            "UPDATE OR IGNORE delivery SET destination = ?, commitment = ?, state = 'waiting', attempts = 0, "
            "next_try = 0, reason = '', transaction_uid = '' WHERE sop_uid = ? AND destination = ?",
            (destination, commitment, *one),
        )
        database.execute("DELETE FROM delivery WHERE sop_uid = ? AND destination = ?", one)
        database.execute("UPDATE study SET state = 'predicted' WHERE id = ? AND state = 'dead'", (delivery.study,))
        _record(database, "redirected", delivery, to=destination)
        follow(database, delivery.study, now)
    return len(moved)


def release(database: sqlite3.Connection, destinations: list[str], now: float) -> int:
    """Ask only these destinations for commitment; deliveries to others are done once sent. Return how many changed."""
    marks = ", ".join("?" for _ in destinations)
    where = f"commitment AND delivery.state IN ('waiting', 'sent') AND destination NOT IN ({marks})"
    released = deliveries(database, where, *destinations)
    for delivery in released:
        database.execute(
            "UPDATE delivery SET commitment = 0 WHERE sop_uid = ? AND destination = ?",
            (delivery.sop_uid, delivery.destination),
        )
        _record(database, "commitment not asked for any more", delivery)
        follow(database, delivery.study, now)
    return len(released)


def retry(database: sqlite3.Connection, study: str) -> int:
    """Make dead letters and postponed attempts due at once, for one study or for all; return how many.

    What was canceled is restarted only for one study, and waits for its images like a new one.
    """
    one = (study, study)
    canceled = database.execute(
        "UPDATE study SET state = 'received', reason = '' WHERE id = ? AND state = 'dead' AND reason = 'canceled'",
        (study,),
    )
    studies = database.execute(
        "UPDATE study SET state = 'complete', attempts = 0, next_try = 0, reason = '' WHERE (id = ? OR ? = '') "
        "AND (state = 'complete' AND attempts > 0 OR state = 'dead' AND reason != 'canceled' AND id NOT IN "
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
        "UPDATE study SET state = 'predicted', reason = '' WHERE (id = ? OR ? = '') AND state = 'dead' "
        "AND reason != 'canceled'",
        one,
    )
    database.execute("UPDATE workitem SET attempts = 0, next_try = 0 WHERE study = ? OR ? = ''", one)
    count = canceled.rowcount + studies.rowcount + sending.rowcount
    if count:
        record.append(database, "retried", study=study or "all", count=count)
    return count


def _record(database: sqlite3.Connection, event: str, delivery: Delivery, **facts: object) -> None:
    own = {"study": delivery.study, "sop_uid": delivery.sop_uid, "destination": delivery.destination}
    record.append(database, event, **own, **facts)
