"""What the node has to do, in a database that survives a kill at any moment.

A study goes ``received -> complete -> predicted -> sent -> committed``, or ends as ``dead`` with a reason. Each step is
one transaction and may be done again without harm: instances are known by their UID, results have UIDs that follow from
what they were made of, and one is sent to one destination once. A late instance opens the study again.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from med_transfer.atomic import output_error
from med_transfer.errors import OutputError
from med_transfer.hospital import record
from med_transfer.hospital.config import FHIR_PREFIX, Retries

FHIR = "fhir"  # in place of a SOP class, of what is no DICOM object
State = Literal["received", "complete", "predicted", "sent", "committed", "dead"]
Added = Literal["new", "known", "conflict", "another patient", "too many"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS study (
    id TEXT PRIMARY KEY, study_uid TEXT NOT NULL, patient_mark TEXT NOT NULL, state TEXT NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1, changed REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', files_kept INTEGER NOT NULL DEFAULT 1,
    priority INTEGER NOT NULL DEFAULT 0, counted REAL NOT NULL DEFAULT -1);
CREATE TABLE IF NOT EXISTS instance (
    sop_uid TEXT PRIMARY KEY, study TEXT NOT NULL REFERENCES study, series_uid TEXT NOT NULL, sop_class TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL, sha256 TEXT NOT NULL, file TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS instance_study ON instance (study);
CREATE TABLE IF NOT EXISTS expected (study TEXT NOT NULL, sop_uid TEXT NOT NULL, PRIMARY KEY (study, sop_uid));
CREATE TABLE IF NOT EXISTS result (
    sop_uid TEXT PRIMARY KEY, study TEXT NOT NULL REFERENCES study, revision INTEGER NOT NULL, sop_class TEXT NOT NULL,
    file TEXT NOT NULL, route TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS result_study ON result (study);
CREATE TABLE IF NOT EXISTS delivery (
    sop_uid TEXT NOT NULL REFERENCES result, destination TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
    commitment INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_try REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', transaction_uid TEXT NOT NULL DEFAULT '', PRIMARY KEY (sop_uid, destination));
CREATE TABLE IF NOT EXISTS bundle (number INTEGER PRIMARY KEY, route TEXT NOT NULL, mark TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS aside (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, reason TEXT NOT NULL, caller TEXT NOT NULL, file TEXT NOT NULL);
"""
_ADDED_LATER = {  # columns that a queue of an earlier version does not have
    "result": {"route": "TEXT NOT NULL DEFAULT ''"},
    "study": {"priority": "INTEGER NOT NULL DEFAULT 0", "counted": "REAL NOT NULL DEFAULT -1"},
}
_MISSING = (
    "(SELECT count(*) FROM expected WHERE expected.study = study.id AND NOT EXISTS "
    "(SELECT 1 FROM instance WHERE instance.sop_uid = expected.sop_uid AND file != ''))"
)
_ANNOUNCED = "EXISTS (SELECT 1 FROM expected WHERE expected.study = study.id)"


@dataclass(frozen=True)
class Instance:
    """One received image. ``patient_mark`` tells two patients apart and names neither."""

    sop_uid: str
    study: str
    study_uid: str
    series_uid: str
    patient_mark: str
    sop_class: str
    transfer_syntax: str
    sha256: str
    file: str


@dataclass(frozen=True)
class Study:
    """One study's state; ``id`` is short and names its folder."""

    id: str
    study_uid: str
    state: State
    revision: int
    attempts: int
    reason: str


@dataclass(frozen=True)
class ResultFile:
    """One object that was made of a study; ``route`` names its bundle's, where there are several."""

    sop_uid: str
    sop_class: str
    file: str
    route: str = ""


@dataclass(frozen=True)
class Delivery:
    """One result for one destination: ``waiting``, ``sent``, ``committed``, ``dead`` or ``superseded``."""

    sop_uid: str
    sop_class: str
    file: str
    study: str
    destination: str
    state: str
    attempts: int


@dataclass
class _Arrival:
    """An instance that waits for its place, and what became of it."""

    instance: Instance
    now: float
    most: int
    priority: int
    added: Added | None = None
    error: Exception | None = None


class Queue:
    """The database; its methods may be called from any thread, each is one transaction.

    Raises:
        OutputError: the folder cannot be written, or the file is no such database.
    """

    def __init__(self, path: Path, retries: Retries | None = None) -> None:
        self._retries, self._lock, self._reading = retries or Retries(), threading.RLock(), threading.Lock()
        self._arrivals: deque[_Arrival] = deque()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600, exist_ok=True)
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;{_SCHEMA}{record.SCHEMA}")
            self._add_columns()
            self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        except OSError as error:
            raise output_error(path, error) from error
        except sqlite3.Error as error:
            raise OutputError(f"is no queue of a node ({error})", where=path, action="Move the file away") from error

    def _add_columns(self) -> None:
        for table, columns in _ADDED_LATER.items():
            there = {row[1] for row in self._rows(f"PRAGMA table_info({table})")}
            for name in columns.keys() - there:
                self._database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]}")

    def close(self) -> None:
        """Write everything out."""
        with self._lock, self._reading:
            self._reader.close()
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    # Receiving ------------------------------------------------------------------------------------------------

    def judge(self, instance: Instance, most: int) -> Added:
        """Whether an instance is new; nothing is changed, and no commit is waited for."""
        with self._reading:
            return _judged(self._reader, instance, most)

    def add(self, instance: Instance, now: float, most: int = 1 << 30, priority: int = 0) -> Added:
        """Take an instance whose file is on the disk; a study that was further on is opened again.

        One that nobody announced shows that what was announced is not all. A study has the highest ``priority`` of its
        instances: 1 high, 0 medium, -1 low.

        What several associations bring at one time waits for one commit together: whoever gets the lock first writes
        for all who wait. None is answered before its own is on the disk.
        """
        arrival = _Arrival(instance, now, most, priority)
        self._arrivals.append(arrival)
        with self._lock:
            if arrival.added is None and arrival.error is None:
                self._add_all()
        if arrival.error is not None:
            raise arrival.error
        assert arrival.added is not None
        return arrival.added

    def _add_all(self) -> None:
        together = [self._arrivals.popleft() for _ in range(len(self._arrivals))]
        try:
            with self._transaction() as database:
                answers: list[Added] = [self._add(database, arrival) for arrival in together]
        except Exception as error:  # a full disk, for one; each is told, and none counts as taken
            for arrival in together:
                arrival.error = error
            return
        for arrival, added in zip(together, answers, strict=True):
            arrival.added = added

    def _add(self, database: sqlite3.Connection, arrival: _Arrival) -> Added:
        instance, now, priority = arrival.instance, arrival.now, arrival.priority
        added = _judged(database, instance, arrival.most)
        if added != "new":
            return added
        made = database.execute(
            "INSERT OR IGNORE INTO study (id, study_uid, patient_mark, state, changed, priority) "
            "VALUES (?, ?, ?, 'received', ?, ?)",
            (instance.study, instance.study_uid, instance.patient_mark, now, priority),
        )
        if not made.rowcount:
            self._reopen(database, instance.study, now, priority)
        of_study = (instance.study, instance.study, instance.sop_uid)
        database.execute(
            "DELETE FROM expected WHERE study = ? AND NOT EXISTS "
            "(SELECT 1 FROM expected WHERE study = ? AND sop_uid = ?)",
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

    def _reopen(self, database: sqlite3.Connection, study: str, now: float, priority: int) -> None:
        """A study gets another instance: what waits to be sent of an earlier revision never will be."""
        (state,) = database.execute("SELECT state FROM study WHERE id = ?", (study,)).fetchone()
        database.execute(
            "UPDATE study SET state = 'received', changed = ?, attempts = 0, next_try = 0, reason = '', "
            "files_kept = 1, revision = revision + ?, priority = max(priority, ?) WHERE id = ?",
            (now, int(state != "received"), priority, study),
        )
        if state != "received":
            database.execute(
                "UPDATE delivery SET state = 'superseded' WHERE state IN ('waiting', 'dead') "
                "AND sop_uid IN (SELECT sop_uid FROM result WHERE study = ?)",
                (study,),
            )
            record.append(database, "reopened", study=study, was=state)

    def set_aside(self, reason: str, caller: str, file: str, now: float) -> None:
        """Remember a file that was not taken, and why."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO aside (time, reason, caller, file) VALUES (?, ?, ?, ?)", (now, reason, caller, file)
            )
            record.append(database, "set aside", reason=reason, caller=caller, file=file)

    # Is it all? -----------------------------------------------------------------------------------------------

    def announce(self, study: str, sop_uids: Iterable[str]) -> None:
        """There are such instances of a study, which may not have begun to come."""
        with self._transaction() as database:
            database.executemany("INSERT OR IGNORE INTO expected VALUES (?, ?)", [(study, uid) for uid in sop_uids])
            record.append(database, "announced", study=study)

    def to_count(self, now: float, quiet_seconds: float) -> list[Study]:
        """Studies of which nothing has come for so long, and of which the PACS has not been asked for as long."""
        before = now - quiet_seconds
        where = "WHERE state = 'received' AND changed <= ? AND counted <= ? ORDER BY changed"
        return self._studies(where, before, before)

    def counted(self, study: Study, sop_uids: Iterable[str], now: float) -> None:
        """The PACS has these instances of a study."""
        with self._transaction() as database:
            database.execute("DELETE FROM expected WHERE study = ?", (study.id,))
            database.executemany("INSERT INTO expected VALUES (?, ?)", [(study.id, uid) for uid in set(sop_uids)])
            database.execute("UPDATE study SET counted = ? WHERE id = ?", (now, study.id))
            self._wait_for_missing(database, study.id)

    def not_counted(self, study: Study, reason: str) -> None:
        """The PACS cannot say."""
        with self._transaction() as database:
            database.execute("UPDATE study SET reason = ? WHERE id = ? AND state = 'received'", (reason, study.id))

    @staticmethod
    def _wait_for_missing(database: sqlite3.Connection, study: str) -> None:
        database.execute(
            f"UPDATE study SET reason = CASE {_MISSING} WHEN 0 THEN '' ELSE 'missing_' || {_MISSING} END "
            "WHERE id = ? AND state = 'received'",
            (study,),
        )

    def listening(self, now: float) -> None:
        """Nothing could come while the node was down: quiet time begins anew."""
        with self._transaction() as database:
            database.execute("UPDATE study SET changed = ? WHERE state = 'received'", (now,))

    def complete(
        self, now: float, quiet_seconds: float, longest_seconds: float = float("inf"), counting: bool = False
    ) -> int:
        """Close every study that is all here; how many. A clock that was set back only delays.

        Args:
            now: seconds.
            quiet_seconds: without a new instance; not waited for where all that was announced is here, and no more.
            longest_seconds: without a new instance, after which a study is closed although some are missing.
            counting: after the quiet time the PACS is asked what there is, and its answer is waited for.
        """
        ours = "(SELECT count(*) FROM instance WHERE instance.study = study.id)"
        announced = "(SELECT count(*) FROM expected WHERE expected.study = study.id)"
        with self._transaction() as database:
            database.execute("UPDATE study SET changed = ? WHERE state = 'received' AND changed > ?", (now, now))
            database.execute("UPDATE study SET counted = ? WHERE counted > ?", (now, now))
            closed = database.execute(
                "UPDATE study SET state = 'complete' WHERE state = 'received' AND "
                f"({_ANNOUNCED} AND {_MISSING} = 0 AND {ours} = {announced} OR changed <= ? OR "
                f"changed <= ? AND {_MISSING} = 0 AND (counted >= changed OR NOT ?)) RETURNING id, {_MISSING}",
                (now - longest_seconds, now - quiet_seconds, counting),
            ).fetchall()
            for study, missing in closed:
                if missing:
                    record.append(database, "predicted though incomplete", study=study, missing=missing)
        return len(closed)

    # Predicting -----------------------------------------------------------------------------------------------

    def to_predict(self, now: float) -> Study | None:
        """The complete study of the highest priority that has waited longest."""
        self._set_clock("study", now)
        studies = self._studies(
            "WHERE state = 'complete' AND next_try <= ? ORDER BY priority DESC, changed LIMIT 1", now
        )
        return studies[0] if studies else None

    def instances(self, study: str) -> list[tuple[str, str]]:
        """UID and hash of each, in order of UID."""
        return self._rows("SELECT sop_uid, sha256 FROM instance WHERE study = ? ORDER BY sop_uid", study)

    def images_here(self, study: str) -> set[str]:
        """UIDs of its instances that have their file."""
        return {row[0] for row in self._rows("SELECT sop_uid FROM instance WHERE study = ? AND file != ''", study)}

    def deleted(self, study: str) -> int:
        """How many of its instances have no file any more."""
        ((count,),) = self._rows("SELECT count(*) FROM instance WHERE study = ? AND file = ''", study)
        return count

    def predicted(
        self,
        study: Study,
        results: Sequence[ResultFile],
        destinations: Sequence[tuple[str, bool]],
        now: float,
        facts: Sequence[dict[str, object]],
    ) -> bool:
        """The study's results are on the disk; False where it has changed meanwhile, and they count for nothing.

        Args:
            study: as it was when it was predicted.
            results: of this revision.
            destinations: who gets them, and whether they are asked for commitment.
            now: seconds.
            facts: for the record, an entry each.
        """
        with self._transaction() as database:
            changed = database.execute(
                "UPDATE study SET state = 'predicted', attempts = 0, next_try = 0, reason = '', changed = ? "
                "WHERE id = ? AND revision = ? AND state = 'complete'",
                (now, study.id, study.revision),
            )
            if not changed.rowcount:
                return False
            for result in results:
                database.execute(
                    "INSERT INTO result (sop_uid, study, revision, sop_class, file, route) VALUES (?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET revision = excluded.revision, file = excluded.file",
                    (result.sop_uid, study.id, study.revision, result.sop_class, result.file, result.route),
                )
                database.executemany(
                    "INSERT INTO delivery (sop_uid, destination, commitment) VALUES (?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET state = 'waiting' WHERE state = 'superseded'",
                    [
                        (result.sop_uid, name, int(commitment))
                        for name, commitment in destinations
                        if (result.sop_class == FHIR) == name.startswith(FHIR_PREFIX)
                    ],
                )
            for entry in facts:
                record.append(database, "predicted", study=study.id, revision=study.revision, **entry)
            self._follow(database, study.id, now)
        return True

    def not_predicted(self, study: Study, reason: str, now: float) -> None:
        """Something went wrong that may go better later; after too many attempts the study is a dead letter."""
        dead = study.attempts + 1 >= self._retries.predictions
        with self._transaction() as database:
            database.execute(
                "UPDATE study SET attempts = attempts + 1, next_try = ?, reason = ?, state = ?, changed = ? "
                "WHERE id = ? AND revision = ? AND state = 'complete'",
                (
                    *(now + self.wait_seconds(study.attempts), reason, "dead" if dead else "complete", now),
                    *(study.id, study.revision),
                ),
            )
            record.append(database, "not predicted", study=study.id, reason=reason, dead=dead)

    def earlier_results(self, study: Study, route: str = "") -> list[ResultFile]:
        """A route's results of earlier revisions that somebody has been sent, the latest last."""
        rows = self._rows(
            "SELECT DISTINCT result.sop_uid, sop_class, file, revision FROM result JOIN delivery USING (sop_uid) "
            "WHERE study = ? AND revision < ? AND route = ? AND state IN ('sent', 'committed') ORDER BY revision",
            *(study.id, study.revision, route),
        )
        return [ResultFile(row[0], row[1], row[2], route) for row in rows]

    # Which bundle ---------------------------------------------------------------------------------------------

    def use_bundle(self, route: str, mark: str, event: str) -> None:
        """From now on; ``event``: how the record calls it."""
        with self._transaction() as database:
            database.execute("INSERT INTO bundle (route, mark) VALUES (?, ?)", (route, mark))
            record.append(database, event, route=route, bundle_files=mark)

    def bundles_in_use(self) -> dict[str, str]:
        """Marks, by route."""
        return {route: self.bundles(route)[0] for (route,) in self._rows("SELECT DISTINCT route FROM bundle")}

    def bundles(self, route: str) -> list[str]:
        """Marks of the bundles that were in use, each once, the one that is in use first."""
        rows = self._rows("SELECT mark FROM bundle WHERE route = ? GROUP BY mark ORDER BY max(number) DESC", route)
        return [row[0] for row in rows]

    # Sending --------------------------------------------------------------------------------------------------

    def to_send(self, destination: str, now: float) -> list[Delivery]:
        """What waits for a destination and is due."""
        self._set_clock("delivery", now)
        return self._deliveries(
            "destination = ? AND delivery.state = 'waiting' AND delivery.next_try <= ?", destination, now
        )

    def to_commit(self, destination: str, now: float) -> list[Delivery]:
        """What a destination has taken and is to be asked about, the first time or again."""
        where = "destination = ? AND delivery.state = 'sent' AND commitment AND delivery.next_try <= ?"
        return self._deliveries(where, destination, now)

    def sent(self, delivery: Delivery, now: float) -> None:
        """The destination has taken it."""
        with self._transaction() as database:
            self._settle(database, delivery, "sent", now)

    def not_sent(self, delivery: Delivery, reason: str, now: float) -> None:
        """It was refused or could not be reached; the next try is later, or never."""
        dead = delivery.attempts + 1 >= self._retries.attempts
        with self._transaction() as database:
            database.execute(
                "UPDATE delivery SET attempts = attempts + 1, next_try = ?, reason = ?, state = ? "
                "WHERE sop_uid = ? AND destination = ? AND state NOT IN ('superseded', 'committed')",
                (
                    *(now + self.wait_seconds(delivery.attempts), reason, "dead" if dead else "waiting"),
                    *(delivery.sop_uid, delivery.destination),
                ),
            )
            if dead:
                self._say(database, "dead letter", delivery, reason=reason)
            self._follow(database, delivery.study, now)

    def asked(self, deliveries: Sequence[Delivery], transaction_uid: str, ask_again: float) -> None:
        """Commitment is asked for under this UID, for the last time where too many questions had no answer."""
        with self._transaction() as database:
            for delivery in deliveries:
                dead = delivery.attempts + 1 >= self._retries.attempts
                database.execute(
                    "UPDATE delivery SET transaction_uid = ?, next_try = ?, attempts = attempts + 1, state = ?, "
                    "reason = ? WHERE sop_uid = ? AND destination = ? AND state = 'sent'",
                    (
                        *(transaction_uid, ask_again, "dead" if dead else "sent"),
                        *("no_commitment" if dead else "", delivery.sop_uid, delivery.destination),
                    ),
                )
                if dead:
                    self._say(database, "dead letter", delivery, reason="no_commitment")
                    self._follow(database, delivery.study, time.time())

    def answered(self, transaction_uid: str, sender: str, committed: set[str], failed: dict[str, int], now: float):
        """A destination commits to some results, and not to others, which are then sent again.

        Args:
            transaction_uid: of the question; an answer to none is passed over.
            sender: AE title of who answers; only who was asked may.
            committed: UIDs.
            failed: UID to the reason, DICOM PS3.3 C.14.1.1.
            now: seconds.
        """
        where = "transaction_uid = ? AND delivery.state IN ('sent', 'dead') AND destination LIKE ? ESCAPE '\\'"
        like = sender.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "@%"
        asked = self._deliveries(where, transaction_uid, like) if transaction_uid else []
        for delivery in asked:
            if delivery.sop_uid in failed:
                self.not_sent(delivery, f"commitment_refused_{failed[delivery.sop_uid]:04X}", now)
            elif delivery.sop_uid in committed:
                with self._transaction() as database:
                    self._settle(database, delivery, "committed", now)

    def _settle(self, database: sqlite3.Connection, delivery: Delivery, state: str, now: float) -> None:
        changed = database.execute(
            "UPDATE delivery SET state = ?, attempts = 0, next_try = 0, reason = '' WHERE sop_uid = ? "
            "AND destination = ? AND state != ? AND state != 'committed'",
            (state, delivery.sop_uid, delivery.destination, state),
        )
        if changed.rowcount:
            self._say(database, state, delivery)
            self._follow(database, delivery.study, now)

    @staticmethod
    def _say(database: sqlite3.Connection, event: str, delivery: Delivery, **facts: object) -> None:
        own = {"study": delivery.study, "sop_uid": delivery.sop_uid, "destination": delivery.destination}
        record.append(database, event, **own, **facts)

    @staticmethod
    def _follow(database: sqlite3.Connection, study: str, now: float) -> None:
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
        database.execute(
            "UPDATE study SET state = ?, reason = ?, changed = ? WHERE id = ?", (state, reason, now, study)
        )

    # For people -----------------------------------------------------------------------------------------------

    def studies(self, *states: State) -> list[Study]:
        """In these states; all when none is named. The last changed one first."""
        marks = ", ".join("?" for _ in states)
        where = f"WHERE state IN ({marks})" if states else ""
        return self._studies(f"{where} ORDER BY changed DESC", *states)

    def counts(self) -> dict[str, int]:
        """Studies by state."""
        return dict(self._rows("SELECT state, count(*) FROM study GROUP BY state ORDER BY state"))

    def deliveries(self) -> list[Delivery]:
        """All of them."""
        return self._deliveries("TRUE")

    def reasons(self) -> list[tuple[str, int]]:
        """Why instances were set aside, and how many."""
        return self._rows("SELECT reason, count(*) FROM aside GROUP BY reason ORDER BY reason")

    def retry(self, study: str = "") -> int:
        """Try dead letters, and what waits for its next try, at once: of one study or of all. How many."""
        with self._transaction() as database:
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
            count = studies.rowcount + sending.rowcount
            if count:
                record.append(database, "retried", study=study or "all", count=count)
        return count

    def entries(self) -> list[dict[str, object]]:
        """The record."""
        with self._lock:
            return list(record.entries(self._database))

    def audit(self) -> record.Audit:
        """Whether the record is whole."""
        with self._lock:
            return record.audit(self._database)

    # Keeping --------------------------------------------------------------------------------------------------

    def to_forget(self, before: float) -> list[str]:
        """Studies that have ended, and whose files have been kept long enough."""
        of_study = "SELECT 1 FROM delivery JOIN result USING (sop_uid) WHERE result.study = study.id"
        rows = self._rows(
            "SELECT id FROM study WHERE files_kept AND changed < ? AND (state = 'committed' "
            f"OR state = 'sent' AND NOT EXISTS ({of_study} AND commitment AND delivery.state = 'sent') "
            f"OR state = 'predicted' AND NOT EXISTS ({of_study}))",
            before,
        )
        return [row[0] for row in rows]

    def forgotten(self, study: str) -> list[str]:
        """The study's files, which the queue knows no more: what is sent again will be taken again."""
        with self._transaction() as database:
            rows = database.execute("SELECT file FROM instance WHERE study = ? AND file != ''", (study,)).fetchall()
            database.execute("UPDATE instance SET file = '' WHERE study = ?", (study,))
            database.execute("UPDATE study SET files_kept = 0 WHERE id = ?", (study,))
            database.execute("DELETE FROM expected WHERE study = ?", (study,))
            record.append(database, "files deleted", study=study)
        return [row[0] for row in rows]

    def files(self) -> set[str]:
        """All that the queue knows."""
        return {row[0] for row in self._rows("SELECT file FROM instance")}

    # Inside ---------------------------------------------------------------------------------------------------

    def wait_seconds(self, attempts: int) -> float:
        """Until the next try, after so many before this one."""
        longest = min(self._retries.longest_seconds, self._retries.first_seconds * 2.0 ** min(attempts, 30))
        return longest * random.uniform(0.5, 1.0)

    def _set_clock(self, table: str, now: float) -> None:
        """Nothing waits longer than the longest wait, even when the clock was set back."""
        latest = now + max(self._retries.longest_seconds, self._retries.commitment_seconds)
        if self._rows(f"SELECT 1 FROM {table} WHERE next_try > ? LIMIT 1", latest):
            with self._transaction() as database:
                database.execute(f"UPDATE {table} SET next_try = ? WHERE next_try > ?", (now, latest))

    def _studies(self, where: str, *values: object) -> list[Study]:
        query = f"SELECT id, study_uid, state, revision, attempts, reason FROM study {where}"
        return [Study(*row) for row in self._rows(query, *values)]

    def _deliveries(self, where: str, *values: object) -> list[Delivery]:
        query = (
            "SELECT sop_uid, sop_class, file, study, destination, delivery.state, delivery.attempts "
            f"FROM delivery JOIN result USING (sop_uid) JOIN study ON study.id = result.study WHERE {where} "
            "ORDER BY priority DESC, result.rowid"
        )
        return [Delivery(*row) for row in self._rows(query, *values)]


def _judged(database: sqlite3.Connection, instance: Instance, most: int) -> Added:
    """Whether an instance is new to what the connection sees."""

    def rows(query: str, value: str) -> list[tuple[Any, ...]]:
        return database.execute(query, (value,)).fetchall()

    known = rows("SELECT sha256, study FROM instance WHERE sop_uid = ? AND file != ''", instance.sop_uid)
    if known:
        return "known" if known[0] == (instance.sha256, instance.study) else "conflict"
    study = rows("SELECT patient_mark FROM study WHERE id = ?", instance.study)
    if study and study[0][0] != instance.patient_mark:
        return "another patient"
    ((count,),) = rows("SELECT count(*) FROM instance WHERE study = ?", instance.study)
    return "new" if count < most else "too many"
