"""Answers on studies and people's feedback, for the review page. Functions work in their caller's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from med_transfer.hospital import record
from med_transfer.hospital.queue.kinds import Described, Feedback, SeriesAnswer, Study


def describe(database: sqlite3.Connection, study: str, described: Described) -> None:
    """Store what the page shows of patient and study."""
    values = asdict(described)
    columns = ", ".join(f"{name} = ?" for name in values)
    database.execute(f"UPDATE worklist SET {columns}, described = 1 WHERE study = ?", (*values.values(), study))


def put_answers(database: sqlite3.Connection, study: Study, answers: Sequence[SeriesAnswer]) -> None:
    """Store the answers of a study's revision, and update its line of the worklist."""
    _put(database, study.id, study.revision, answers)
    database.execute("DELETE FROM call WHERE study = ?", (study.id,))
    database.execute(f"{_COUNT_CALLS} AND answer.study = ? {_BY_CALL}", (study.id,))
    update_worklist(database, study.id, [answer.facts for answer in answers])


def _put(database: sqlite3.Connection, study: str, revision: int, answers: Sequence[SeriesAnswer]) -> None:
    for number, answer in enumerate(answers):
        database.execute(
            "INSERT OR REPLACE INTO answer (study, revision, number, route, bundle, series_uid, map_file, facts) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(study, revision, number, answer.route, answer.bundle, answer.series_uid, answer.map_file),
                json.dumps(answer.facts, ensure_ascii=False),
            ),
        )


_COUNT_CALLS = (  # what was called, for how many series of the present revision; no call: none of the findings
    "INSERT INTO call SELECT answer.study, coalesce(json_extract(facts, '$.predicted'), ''), count(*) "
    "FROM answer JOIN study ON study.id = answer.study AND study.revision = answer.revision "
    "WHERE json_extract(facts, '$.status') = 'ok'"
)
_BY_CALL = "GROUP BY 1, 2"


def count_calls_of_earlier_versions(database: sqlite3.Connection) -> None:
    """Count the calls in a queue from an earlier version, which had no such table."""
    if database.execute("SELECT 1 FROM call LIMIT 1").fetchone() is None:
        database.execute(f"{_COUNT_CALLS} {_BY_CALL}")


def update_worklist(database: sqlite3.Connection, study: str, facts: Sequence[Any]) -> None:
    """Update a study's line of the worklist from one series: if possible one with an answer, else one that abstains."""
    ranked = sorted(facts, key=lambda fact: (fact.get("status") != "ok", bool(fact.get("abstained"))))
    chosen = ranked[0] if ranked else {}
    probabilities: dict[str, float] = chosen.get("probabilities") or {}
    called = str(chosen.get("predicted") or "")
    shares = [probabilities[name] for name in called.split(";") if name in probabilities]
    answer = "" if not chosen else "abstained" if chosen.get("abstained") else str(chosen.get("status", ""))
    because = ";".join(chosen.get("because") or ())
    database.execute(
        "UPDATE worklist SET answer = ?, top_class = ?, top_probability = ?, because = ? WHERE study = ?",
        (answer, called, max(shares, default=-1.0), because, study),
    )


def take_over(database: sqlite3.Connection) -> None:
    """Build the worklist of a queue from an earlier version, which had none, out of its record."""
    missing = "SELECT id FROM study WHERE id NOT IN (SELECT study FROM worklist)"
    studies = [row[0] for row in database.execute(missing)]
    if not studies:
        return
    database.execute(
        "INSERT INTO worklist (study, received, state, reason) "
        f"SELECT id, changed, state, reason FROM study WHERE id IN ({missing})"
    )
    for study in studies:
        predicted = [entry for entry in record.entries(database, study) if entry["event"] == "predicted"]
        last = max((int(str(entry["revision"])) for entry in predicted), default=0)
        facts = [entry for entry in predicted if entry["revision"] == last]
        _put(database, study, last, [SeriesAnswer(entry) for entry in facts])
        update_worklist(database, study, facts)


def add_feedback(database: sqlite3.Connection, given: Feedback, now: float) -> bool:
    """Store a person's feedback; return False if the answer that it refers to is no longer the current one."""
    answer = (given.study, given.revision, given.number)
    row = database.execute(
        "SELECT series_uid, bundle FROM answer JOIN study ON study.id = answer.study "
        "AND study.revision = answer.revision WHERE study = ? AND answer.revision = ? AND number = ?",
        answer,
    ).fetchone()
    if row is None:
        return False
    database.execute(
        "INSERT INTO feedback (time, user, study, revision, answer, kind, label, comment, series_uid, bundle) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (now, given.user, *answer, given.kind, given.label, given.comment, *row),
    )
    if given.kind in ("agree", "disagree"):
        database.execute("UPDATE worklist SET judged = ? WHERE study = ?", (given.kind, given.study))
    facts = {"study": given.study, "revision": given.revision, "answer": given.number}
    record.append(database, "judged", **facts, kind=given.kind, user=given.user)
    return True


def feedback(database: sqlite3.Connection, study: str = "") -> list[Feedback]:
    """Feedback on one study, or on all, in order of time."""
    rows = database.execute(
        "SELECT user, study, revision, answer, kind, label, comment, series_uid, bundle, time FROM feedback "
        "WHERE study = ? OR ? = '' ORDER BY number",
        (study, study),
    )
    return [Feedback(*row) for row in rows]


def answers(database: sqlite3.Connection, study: str, revision: int) -> list[SeriesAnswer]:
    """Answers of one revision of a study, in order."""
    rows = database.execute(
        "SELECT facts, route, bundle, series_uid, map_file FROM answer WHERE study = ? AND revision = ? "
        "ORDER BY number",
        (study, revision),
    )
    return [SeriesAnswer(json.loads(row[0]), *row[1:]) for row in rows]


def can_predict_again(database: sqlite3.Connection, study: str) -> bool:
    """Whether a study is finished and all of its images are still on disk."""
    row = database.execute(
        "SELECT 1 FROM study WHERE id = ? AND state IN ('predicted', 'sent', 'committed', 'dead') "
        "AND NOT EXISTS (SELECT 1 FROM instance WHERE instance.study = study.id AND file = '')",
        (study,),
    )
    return row.fetchone() is not None


def predict_again(database: sqlite3.Connection, study: str, now: float) -> None:
    """Have a study predicted again, as a new revision."""
    database.execute(
        "UPDATE study SET state = 'complete', revision = revision + 1, attempts = 0, next_try = 0, reason = '', "
        "changed = ? WHERE id = ?",
        (now, study),
    )
