"""Work items that the node has claimed from an external worklist, and the state of their studies.

A work item goes ``claiming -> claimed -> waiting`` (for its study's results), and ends as ``completed``, ``canceled``
or ``lost``. Its Transaction UID is on disk before it is sent to the server, so that a node can resume after a crash.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from med_transfer.hospital import record
from med_transfer.hospital.queue import answering, sending
from med_transfer.hospital.queue.kinds import STUDY_COLUMNS, Delivery, Study
from med_transfer.hospital.queue.queue import Queue

WorkState = Literal["claiming", "claimed", "waiting", "completed", "canceled", "lost"]
_OPEN = "state IN ('claiming', 'claimed', 'waiting')"
_LONGEST_WAIT = 86400
_UNDELIVERED = "NOT (delivery.state = 'committed' OR delivery.state = 'sent' AND NOT commitment)"


@dataclass(frozen=True)
class Workitem:
    """A work item that the node has claimed, or is about to claim.

    Attributes:
        uid, transaction_uid: UIDs of the item and of the claim, which must not appear in logs.
        study, study_uid: the study's name in status and record, and its UID; empty if the item does not name exactly
            one study.
        claimed: time of the claim, seconds since 1970.
        attempts, reason: failed attempts at the present step, and why the last one failed.
        progress: in percent, as last reported to the server.
        cancel: 1 if cancellation was requested.
    """

    uid: str = field(repr=False)
    transaction_uid: str = field(repr=False)
    study: str
    study_uid: str = field(repr=False)
    state: WorkState
    claimed: float
    attempts: int
    reason: str
    progress: int
    cancel: int

    @property
    def name(self) -> str:
        """Name of the item in status and record, a hash of its UID."""
        return hashlib.sha256(self.uid.encode()).hexdigest()[:16]


class Workitems:
    """The work items of a queue; each method is one transaction and may be called from any thread."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def open(self, due: float | None = None) -> list[Workitem]:
        """Items that have not ended, in order of the claim; with ``due``, only those that are due at that time."""
        columns = ", ".join(column.name for column in fields(Workitem))
        where = f"{_OPEN} AND (? IS NULL OR next_try <= ? OR next_try > ? + {_LONGEST_WAIT})"  # a clock set back
        with self._queue.reading() as database:
            rows = database.execute(f"SELECT {columns} FROM workitem WHERE {where} ORDER BY rowid", (due,) * 3)
            return [Workitem(*row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Number of items in each state."""
        with self._queue.reading() as database:
            return dict(database.execute("SELECT state, count(*) FROM workitem GROUP BY state ORDER BY state"))

    def is_known(self, uid: str) -> bool:
        """Whether the node has ever claimed this item."""
        with self._queue.reading() as database:
            return database.execute("SELECT 1 FROM workitem WHERE uid = ?", (uid,)).fetchone() is not None

    def begin(self, uid: str, transaction_uid: str, study: str, study_uid: str, now: float) -> None:
        """Store a claim that is about to be sent."""
        with self._queue.writing() as database:
            database.execute(
                "INSERT INTO workitem (uid, transaction_uid, study, study_uid, claimed) VALUES (?, ?, ?, ?, ?)",
                (uid, transaction_uid, study, study_uid, now),
            )

    def advance(self, item: Workitem, state: WorkState) -> None:
        """Set an item's state once it is claimed or its study was requested. A claim revives a canceled study."""
        with self._queue.writing() as database:
            database.execute(
                "UPDATE workitem SET state = ?, attempts = 0, next_try = 0, reason = '' WHERE uid = ?",
                (state, item.uid),
            )
            if state == "claimed":
                database.execute(
                    "UPDATE study SET state = 'received', reason = '', changed = max(changed, ?) "
                    "WHERE id = ? AND state = 'dead' AND reason = 'canceled'",
                    (item.claimed, item.study),
                )
                record.append(database, "work item claimed", workitem=item.name, study=item.study)

    def progressed(self, item: Workitem, progress: int) -> None:
        """Store the progress that was reported to the server."""
        with self._queue.writing() as database:
            database.execute("UPDATE workitem SET progress = ? WHERE uid = ?", (progress, item.uid))

    def wait(self, item: Workitem, reason: str, next_try: float, claim: bool = False) -> None:
        """Schedule another attempt at an item; with ``claim``, claim it again, since the server knows of no claim."""
        with self._queue.writing() as database:
            database.execute(
                "UPDATE workitem SET attempts = attempts + 1, next_try = ?, reason = ?, state = ? WHERE uid = ?",
                (next_try, reason, "claiming" if claim else item.state, item.uid),
            )

    def end(self, item: Workitem, state: WorkState, reason: str = "") -> None:
        """End an item; the server has been told, or refuses to be."""
        with self._queue.writing() as database:
            database.execute(
                "UPDATE workitem SET state = ?, reason = ?, next_try = 0 WHERE uid = ?", (state, reason, item.uid)
            )
            record.append(database, f"work item {state}", workitem=item.name, study=item.study, reason=reason)

    def cancel(self, uid: str) -> bool:
        """Note that cancellation of an item was requested; return False if the node has no such item in progress."""
        with self._queue.writing() as database:
            asked = database.execute(
                f"UPDATE workitem SET cancel = 1, next_try = 0 WHERE uid = ? AND {_OPEN} AND NOT cancel", (uid,)
            )
            return bool(asked.rowcount)

    def withdraw(self, item: Workitem, now: float) -> None:
        """Cancel the prediction of a study that no other item needs; ``node retry STUDY`` can still restart it."""
        with self._queue.writing() as database:
            database.execute(
                "UPDATE study SET state = 'dead', reason = 'canceled', changed = ? WHERE id = ? "
                "AND state IN ('received', 'complete') "
                f"AND NOT EXISTS (SELECT 1 FROM workitem WHERE study = ? AND uid != ? AND {_OPEN})",
                (now, item.study, item.study, item.uid),
            )

    # What became of the study ---------------------------------------------------------------------------------

    def study(self, item: Workitem) -> Study | None:
        """The study of an item; None if none of its images has arrived."""
        with self._queue.reading() as database:
            row = database.execute(f"SELECT {STUDY_COLUMNS} FROM study WHERE id = ?", (item.study,)).fetchone()
            return Study(*row) if row else None

    def are_results_delivered(self, study: Study) -> bool:
        """Whether every destination has its results of this revision, and has committed to them if asked to."""
        with self._queue.reading() as database:
            return study.state in ("predicted", "sent", "committed") and not _rows_of(database, study, _UNDELIVERED)

    def outputs(self, study: Study) -> list[Delivery]:
        """Results of this revision that destinations have accepted."""
        with self._queue.reading() as database:
            return _rows_of(database, study, "delivery.state IN ('sent', 'committed')")

    def refusals(self, study: Study) -> list[str]:
        """Codes of the reasons why no series of a study could be predicted; empty if one could."""
        with self._queue.reading() as database:
            facts: list[Mapping[str, Any]] = [
                answer.facts for answer in answering.answers(database, study.id, study.revision)
            ]
        if any(fact.get("status") == "ok" for fact in facts):
            return []
        codes = [str(code) for fact in facts for code in fact.get("because") or ()]
        return list(dict.fromkeys(codes)) or ["not-chosen"]


def _rows_of(database: sqlite3.Connection, study: Study, where: str) -> list[Delivery]:
    return sending.deliveries(database, f"study.id = ? AND result.revision = study.revision AND {where}", study.id)
