"""Arriving instances, and what they do to their study. Each function works in its caller's transaction."""

from __future__ import annotations

import sqlite3

from med_transfer.hospital import record
from med_transfer.hospital.queue import answering
from med_transfer.hospital.queue.kinds import Added, Instance


def would_add(database: sqlite3.Connection, instance: Instance, max_instances: int) -> Added:
    """Whether an instance is new, known, or to be refused, according to what the connection sees."""

    def rows(query: str, value: str) -> list[tuple[str, str]]:
        return database.execute(query, (value,)).fetchall()

    known = rows("SELECT sha256, study FROM instance WHERE sop_uid = ? AND file != ''", instance.sop_uid)
    if known:
        return "known" if known[0] == (instance.sha256, instance.study) else "conflict"
    study = rows("SELECT patient_mark FROM study WHERE id = ?", instance.study)
    if study and study[0][0] != instance.patient_mark:
        return "another patient"
    (count,) = database.execute("SELECT count(*) FROM instance WHERE study = ?", (instance.study,)).fetchone()
    return "new" if count < max_instances else "too many"


def add_instance(
    database: sqlite3.Connection, instance: Instance, now: float, max_instances: int, priority: int
) -> Added:
    """Add a new instance to its study, which is created or reopened; a canceled study stays canceled.

    An instance that was not announced shows that the announcement is incomplete, and discards it.
    """
    added = would_add(database, instance, max_instances)
    if added != "new":
        return added
    made = database.execute(
        "INSERT OR IGNORE INTO study (id, study_uid, patient_mark, state, changed, priority) "
        "VALUES (?, ?, ?, 'received', ?, ?)",
        (instance.study, instance.study_uid, instance.patient_mark, now, priority),
    )
    if not made.rowcount:
        _reopen(database, instance.study, now, priority)
    elif _is_canceled(database, instance.study):
        database.execute("UPDATE study SET state = 'dead', reason = 'canceled' WHERE id = ?", (instance.study,))
    if made.rowcount and instance.described is not None:
        answering.describe(database, instance.study, instance.described)
    of_study = (instance.study, instance.study, instance.sop_uid)
    database.execute(
        "DELETE FROM expected WHERE study = ? AND NOT EXISTS (SELECT 1 FROM expected WHERE study = ? AND sop_uid = ?)",
        of_study,
    )
    database.execute(
        "INSERT OR REPLACE INTO instance VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(instance.sop_uid, instance.study, instance.series_uid, instance.sop_class),
            *(instance.transfer_syntax, instance.sha256, instance.file),
        ),
    )
    return "new"


def _is_canceled(database: sqlite3.Connection, study: str) -> bool:
    """Whether a study's work item was canceled on request before any image came, and no other item asks for it."""
    items = database.execute("SELECT state, cancel FROM workitem WHERE study = ?", (study,)).fetchall()
    return ("canceled", 1) in items and {state for state, _ in items} == {"canceled"}


def _reopen(database: sqlite3.Connection, study: str, now: float, priority: int) -> None:
    """Reopen a study for another instance; pending deliveries of its earlier revision are superseded."""
    state, reason = database.execute("SELECT state, reason FROM study WHERE id = ?", (study,)).fetchone()
    if (state, reason) == ("dead", "canceled"):
        database.execute("UPDATE study SET changed = ?, files_kept = 1 WHERE id = ?", (now, study))
        return
    database.execute(
        "UPDATE study SET state = 'received', changed = ?, attempts = 0, next_try = 0, reason = '', "
        "files_kept = 1, revision = revision + ?, priority = max(priority, ?) WHERE id = ?",
        (now, int(state != "received"), priority, study),
    )
    if state != "received":
        supersede(database, study)
        record.append(database, "reopened", study=study, was=state)


def supersede(database: sqlite3.Connection, study: str) -> None:
    """Mark a study's pending and dead deliveries as superseded, so that they are never sent."""
    database.execute(
        "UPDATE delivery SET state = 'superseded' WHERE state IN ('waiting', 'dead') "
        "AND sop_uid IN (SELECT sop_uid FROM result WHERE study = ?)",
        (study,),
    )
