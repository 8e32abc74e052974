"""The queue's interface: each method is one transaction and may be called from any thread."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from med_transfer.hospital import record
from med_transfer.hospital.config import Retries
from med_transfer.hospital.database import SharedCommit, SharedDatabase
from med_transfer.hospital.queue import answering, completing, keeping, predicting, receiving, removed_routes, sending
from med_transfer.hospital.queue.kinds import (
    STUDY_COLUMNS,
    Added,
    Delivery,
    Described,
    Feedback,
    Instance,
    RemovedRouteAnswer,
    ResultFile,
    SeriesAnswer,
    State,
    Study,
)
from med_transfer.hospital.queue.schema import bundles_in_use, create_tables, escape_like

BATCH_SIZE = 50  # deliveries handled before the most urgent ones are looked up again


class Queue(SharedDatabase):
    """The node's queue.

    Args:
        path: the database file, created if missing.
        retries: attempts and waits; None: the defaults.

    Raises:
        OutputError: the folder cannot be written, the file is not a queue, or it was written by a newer version.
    """

    def __init__(self, path: Path, retries: Retries | None = None) -> None:
        super().__init__(path, "queue of a node", create_tables)
        self._retries = retries or Retries()
        self._arrivals = SharedCommit[Added](self._lock, self.writing)

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    # Receiving ------------------------------------------------------------------------------------------------

    def would_add(self, instance: Instance, max_instances: int) -> Added:
        """What :meth:`add` would return now; read-only, so it waits for no writer."""
        with self._reading:
            return receiving.would_add(self._reader, instance, max_instances)

    def add(self, instance: Instance, now: float, max_instances: int = 1 << 30, priority: int = 0) -> Added:
        """Add an instance whose file is on disk; a study in a later state is reopened.

        An instance that was not announced shows that the announcement is incomplete, and discards it. A study has the
        highest ``priority`` of its instances: 1 high, 0 medium, -1 low.

        Concurrent calls share one commit.
        """
        return self._arrivals.write(
            lambda database: receiving.add_instance(database, instance, now, max_instances, priority)
        )

    def set_aside(self, reason: str, caller: str, file: str, now: float) -> None:
        """Register a file that was refused, and the reason."""
        with self.writing() as database:
            database.execute(
                "INSERT INTO aside (time, reason, caller, file) VALUES (?, ?, ?, ?)", (now, reason, caller, file)
            )
            record.append(database, "set aside", reason=reason, caller=caller, file=file)

    # Is it all? -----------------------------------------------------------------------------------------------

    def announce(self, study: str, sop_uids: Iterable[str], now: float) -> None:
        """Expect these instances of a study, of which none need have arrived yet."""
        rows = [(study, uid, now) for uid in sop_uids]
        with self.writing() as database:
            database.executemany("INSERT OR REPLACE INTO expected VALUES (?, ?, ?)", rows)
            record.append(database, "announced", study=study)

    def to_count(self, now: float, quiet_seconds: float) -> list[Study]:
        """Studies without a new instance, and without a query to the PACS, for ``quiet_seconds``."""
        before = now - quiet_seconds
        where = "WHERE state = 'received' AND changed <= ? AND counted <= ? ORDER BY changed"
        return self._studies(where, before, before)

    def counted(self, study: Study, sop_uids: Iterable[str], now: float) -> None:
        """Store which instances the PACS has of a study."""
        with self.writing() as database:
            completing.expect(database, study.id, set(sop_uids), now)

    def not_counted(self, study: Study, reason: str) -> None:
        """Store why the PACS did not say which instances it has of a study."""
        with self.writing() as database:
            database.execute("UPDATE study SET reason = ? WHERE id = ? AND state = 'received'", (reason, study.id))

    def missing(self, study: str) -> int:
        """Number of a study's images that were announced or are in the PACS, but have not arrived."""
        with self._lock:
            return completing.missing(self._database, study)

    def listening(self, now: float) -> None:
        """Restart the quiet time of all studies, since nothing could arrive while the node was down."""
        with self.writing() as database:
            database.execute("UPDATE study SET changed = ? WHERE state = 'received'", (now,))

    def complete(
        self, now: float, quiet_seconds: float, longest_seconds: float = float("inf"), counting: bool = False
    ) -> int:
        """Mark complete studies as such; return how many. A clock that is set back only causes a delay.

        Args:
            now: seconds since 1970.
            quiet_seconds: time without a new instance after which a study is complete if none is missing; not awaited
                if exactly the announced instances are here.
            longest_seconds: time without a new instance after which it counts as complete even if some are missing.
            counting: also wait for the PACS's answer as to which instances there are.
        """
        with self.writing() as database:
            return completing.close(database, now, quiet_seconds, longest_seconds, counting)

    # Predicting -----------------------------------------------------------------------------------------------

    def to_predict(self, now: float) -> Study | None:
        """The complete study that is due, has the highest priority and has waited longest; None if none is due."""
        self._set_clock("study", now)
        studies = self._studies(
            "WHERE state = 'complete' AND next_try <= ? ORDER BY priority DESC, changed LIMIT 1", now
        )
        return studies[0] if studies else None

    def instances(self, study: str) -> list[tuple[str, str]]:
        """UID and hash of each instance of a study, ordered by UID."""
        return self._rows("SELECT sop_uid, sha256 FROM instance WHERE study = ? ORDER BY sop_uid", study)

    def file_of(self, study: str, sop_uid: str) -> str:
        """File of an instance, relative to the node's folder; empty if it is unknown or deleted."""
        rows = self._rows("SELECT file FROM instance WHERE study = ? AND sop_uid = ?", study, sop_uid)
        return rows[0][0] if rows else ""

    def images_here(self, study: str) -> set[str]:
        """UIDs of a study's instances whose files are on disk."""
        return {row[0] for row in self._rows("SELECT sop_uid FROM instance WHERE study = ? AND file != ''", study)}

    def lost(self, study: str, files: Iterable[str]) -> None:
        """Note that files are no longer on disk, so that the images are accepted if they are sent again."""
        rows = [(study, file) for file in files]
        with self.writing() as database:
            database.executemany("UPDATE instance SET file = '' WHERE study = ? AND file = ?", rows)
            record.append(database, "images lost", study=study, count=len(rows))

    def deleted(self, study: str) -> int:
        """Number of a study's instances whose files have been deleted or lost."""
        ((count,),) = self._rows("SELECT count(*) FROM instance WHERE study = ? AND file = ''", study)
        return count

    def predicted(
        self,
        study: Study,
        results: Sequence[ResultFile],
        destinations: Sequence[tuple[str, bool]],
        now: float,
        facts: Sequence[dict[str, object]],
        answers: Sequence[SeriesAnswer] = (),
    ) -> bool:
        """Register a study's results, whose files are on disk; return False, and discard them, if it has changed since.

        Args:
            study: the study as it was taken from the queue.
            results: results of this revision.
            destinations: name of each destination, and whether it is asked for storage commitment.
            now: seconds since 1970.
            facts: entries for the record.
            answers: answers for the page.
        """
        with self.writing() as database:
            if not predicting.close(database, study, now):
                return False
            predicting.put_results(database, study, results, destinations)
            answering.put_answers(database, study, answers)
            for entry in facts:
                record.append(database, "predicted", study=study.id, revision=study.revision, **entry)
            sending.follow(database, study.id, now)
        return True

    def not_predicted(self, study: Study, reason: str, now: float, for_good: bool = True) -> None:
        """Schedule another attempt at a study; with ``for_good``, too many attempts make it a dead letter."""
        dead = for_good and study.attempts + 1 >= self._retries.predictions
        with self.writing() as database:
            predicting.fail(database, study, reason, now, now + self.wait_seconds(study.attempts), dead)

    def earlier_results(self, study: Study, route: str = "") -> list[ResultFile]:
        """A route's results of earlier revisions that a destination has or may have, the latest last."""
        with self._lock:
            return predicting.earlier_results(self._database, study, route)

    # Which bundle ---------------------------------------------------------------------------------------------

    def use_bundle(self, route: str, mark: str, event: str, **facts: object) -> None:
        """Put a bundle into use for a route; ``event`` and ``facts`` go into the record."""
        with self.writing() as database:
            database.execute("INSERT INTO bundle (route, mark) VALUES (?, ?)", (route, mark))
            record.append(database, event, route=route, bundle_files=mark, **facts)

    def bundles_in_use(self, routes: Iterable[str]) -> dict[str, str]:
        """Mark of the bundle in use for each of these routes, those of node.yaml, that has one."""
        with self.reading() as database:
            return bundles_in_use(database, routes)

    def bundles(self, route: str) -> list[str]:
        """Marks of all bundles that were ever in use for a route, each once; the present one first."""
        rows = self._rows("SELECT mark FROM bundle WHERE route = ? GROUP BY mark ORDER BY max(number) DESC", route)
        return [row[0] for row in rows]

    def latest_use(self, route: str) -> int:
        """Number that increases whenever a bundle is put into use for a route."""
        ((number,),) = self._rows("SELECT coalesce(max(number), 0) FROM bundle WHERE route = ?", route)
        return number

    def removed_route_answers(self, bundles: Mapping[str, str]) -> list[RemovedRouteAnswer]:
        """Answers of removed routes that were not withdrawn; ``bundles``: mark in use for each route of node.yaml."""
        with self._lock:
            return removed_routes.removed_route_answers(self._database, bundles)

    def follow_renamed_routes(self, bundles: Mapping[str, str], study: str = "") -> list[RemovedRouteAnswer]:
        """Move answers of renamed routes to the new name; return what :meth:`removed_route_answers` gives then."""
        with self.writing() as database:
            return removed_routes.follow_renamed_routes(database, bundles, study)

    def withdraw_answers(self, answers: Iterable[RemovedRouteAnswer], now: float) -> tuple[int, int]:
        """Have the studies predicted again; return how many, and how many cannot be, as their images were deleted."""
        with self.writing() as database:
            return removed_routes.predict_again(database, sorted({one.study for one in answers}), now)

    # Sending --------------------------------------------------------------------------------------------------

    def to_send(self, destination: str, now: float) -> list[Delivery]:
        """Due deliveries to a destination, most urgent first, ``BATCH_SIZE`` at most: new urgent ones can overtake."""
        self._set_clock("delivery", now)
        where = "destination = ? AND delivery.state = 'waiting' AND delivery.next_try <= ?"
        return self._deliveries(where, destination, now, limit=BATCH_SIZE)

    def begin(self, delivery: Delivery) -> bool:
        """Note on disk that a delivery is about to be sent, so that a crash cannot hide that it may have been accepted.

        Returns False if it is no longer waiting: meanwhile a late image may have arrived, or its destination may have
        been removed.
        """
        with self.writing() as database:
            return sending.begin(database, delivery)

    def to_commit(self, destination: str, now: float) -> list[Delivery]:
        """Deliveries due for a first or repeated request for storage commitment; at most ``BATCH_SIZE``."""
        where = "destination = ? AND delivery.state = 'sent' AND commitment AND delivery.next_try <= ?"
        return self._deliveries(where, destination, now, limit=BATCH_SIZE)

    def sent(self, delivery: Delivery, now: float) -> None:
        """Note that the destination has accepted a delivery."""
        with self.writing() as database:
            sending.settle(database, delivery, "sent", now)

    def not_sent(self, delivery: Delivery, reason: str, now: float) -> None:
        """Note a failed attempt; schedule the next, or make the delivery a dead letter after too many."""
        dead = delivery.attempts + 1 >= self._retries.attempts
        with self.writing() as database:
            sending.fail(database, delivery, reason, now, now + self.wait_seconds(delivery.attempts), dead)

    def asked(self, deliveries: Sequence[Delivery], transaction_uid: str, ask_again: float) -> None:
        """Note a request for storage commitment under this UID; it is the last one after too many without an answer."""
        with self.writing() as database:
            for delivery in deliveries:
                dead = delivery.attempts + 1 >= self._retries.attempts
                sending.ask(database, delivery, transaction_uid, ask_again, dead, time.time())

    def answered(self, transaction_uid: str, sender: str, committed: set[str], failed: dict[str, int], now: float):
        """Process an answer about storage commitment; results that were not committed to are sent again.

        Args:
            transaction_uid: UID of the request; an answer to an unknown one is ignored.
            sender: AE title of the sender; ignored unless it was asked.
            committed: SOPInstanceUIDs that the destination commits to.
            failed: failure reason by SOPInstanceUID, DICOM PS3.3 C.14.1.1.
            now: seconds since 1970.
        """
        where = f"{sending.HAS_TRANSACTION_UID} AND destination LIKE ? ESCAPE '\\'"
        like = escape_like(sender) + "@%"
        asked = self._deliveries(where, transaction_uid, like) if transaction_uid else []
        for delivery in asked:
            if delivery.sop_uid in failed:
                self.not_sent(delivery, f"commitment_refused_{failed[delivery.sop_uid]:04X}", now)
            elif delivery.sop_uid in committed:
                with self.writing() as database:
                    sending.settle(database, delivery, "committed", now)

    def is_unanswered(self, transaction_uid: str) -> bool:
        """Whether a request for commitment under this UID is still unanswered."""
        return bool(self._deliveries(sending.HAS_TRANSACTION_UID, transaction_uid))

    # For people -----------------------------------------------------------------------------------------------

    def describe(self, study: str, described: Described) -> None:
        """Store patient and study descriptions for the page."""
        with self.writing() as database:
            answering.describe(database, study, described)

    def undescribed(self) -> list[tuple[str, str]]:
        """Studies without a stored description of patient and study, each with one of its files."""
        return self._rows(
            "SELECT study, min(file) FROM instance JOIN worklist USING (study) WHERE NOT described AND file != '' "
            "GROUP BY study"
        )

    def add_feedback(self, given: Feedback, now: float) -> bool:
        """Store a person's feedback on an answer permanently.

        Returns False if the answer has been replaced, or if a rerun is requested for a study that is unfinished or
        whose images have been deleted.
        """
        with self.writing() as database:
            again = given.kind == "rerun"
            if again and not answering.can_predict_again(database, given.study):
                return False
            kept = answering.add_feedback(database, given, now)
            if kept and again:
                answering.predict_again(database, given.study, now)
                receiving.supersede(database, given.study)
        return kept

    def studies(self, *states: State) -> list[Study]:
        """Studies in the given states, or all; the most recently changed first."""
        marks = ", ".join("?" for _ in states)
        where = f"WHERE state IN ({marks})" if states else ""
        return self._studies(f"{where} ORDER BY changed DESC", *states)

    def counts(self) -> dict[str, int]:
        """Number of studies in each state."""
        return dict(self._rows("SELECT state, count(*) FROM study GROUP BY state ORDER BY state"))

    def deliveries(self) -> list[Delivery]:
        """All deliveries."""
        return self._deliveries("TRUE")

    def reasons(self) -> list[tuple[str, int]]:
        """Reasons why instances were set aside, with the number of instances."""
        return self._rows("SELECT reason, count(*) FROM aside GROUP BY reason ORDER BY reason")

    def abandon(self, destinations: Iterable[str], now: float) -> int:
        """Make pending deliveries to destinations other than these dead letters; return how many."""
        with self.writing() as database:
            return sending.abandon(database, list(destinations), now)

    def without_destination(self) -> dict[str, int]:
        """Number of dead letters by the destination that node.yaml no longer names."""
        query = "SELECT destination, count(*) FROM delivery WHERE state = 'dead' AND reason = 'no_destination' "
        return dict(self._rows(f"{query} GROUP BY destination ORDER BY destination"))

    def redirect(self, old: str, new: tuple[str, bool], now: float) -> int:
        """Send what a former destination has not stored to another one (name, commitment); return how many results."""
        with self.writing() as database:
            return sending.redirect(database, old, new, now)

    def release(self, destinations: Iterable[str], now: float) -> int:
        """Ask only these destinations for commitment from now on; return how many other deliveries this affects."""
        with self.writing() as database:
            return sending.release(database, list(destinations), now)

    def restored(self, audit: record.Audit) -> None:
        """Note that the queue is that of a backup with this record, so that its results may have been sent since."""
        with self.writing() as database:
            database.execute("UPDATE delivery SET may_be_there = 1 WHERE state IN ('waiting', 'dead')")
            record.append(database, "restored", entries=audit.entries, last_hash=audit.last_hash)

    def retry(self, study: str = "") -> int:
        """Make dead letters and postponed attempts due at once, for one study or for all; return how many.

        What was canceled is restarted only for one study.
        """
        with self.writing() as database:
            return sending.retry(database, study)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield all entries of the record, in order."""
        return record.all_entries(self.reading)

    def audit(self) -> record.Audit:
        """Check the record's hash chain."""
        with self._lock:
            return record.audit(self._database)

    # Keeping --------------------------------------------------------------------------------------------------

    def correct_times(self, now: float) -> None:
        """Set times in the future to now, so that after the clock was set back files are kept no longer than usual."""
        with self.writing() as database:
            for table, column in (("study", "changed"), ("aside", "time"), ("expected", "announced")):
                database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} > ?", (now, now))

    def to_forget(self, before: float) -> list[str]:
        """Studies that were finished before the given time and still have files."""
        with self._lock:
            return keeping.to_forget(self._database, before)

    def forgotten(self, study: str, before: float) -> list[str]:
        """Remove a study's files from the queue and return them; images that are sent again will be accepted again.

        Returns no files if the study is no longer one of :meth:`to_forget`.
        """
        with self.writing() as database:
            return keeping.forget(database, study, before)

    def forgotten_aside(self, before: float) -> list[str]:
        """Remove files that were set aside before the given time from the queue, and return them."""
        with self.writing() as database:
            return keeping.forget_aside(database, before)

    def forget_announced(self, before: float) -> int:
        """Forget images announced before the given time, of studies without any image; return how many images."""
        with self.writing() as database:
            return keeping.forget_announced(database, before)

    def files(self, study: str = "") -> set[str]:
        """Files in the queue: the images of one study, or those of all studies and the files set aside."""
        if study:
            return {row[0] for row in self._rows("SELECT file FROM instance WHERE study = ? AND file != ''", study)}
        return {row[0] for row in self._rows("SELECT file FROM instance UNION SELECT file FROM aside")}

    # Inside ---------------------------------------------------------------------------------------------------

    def wait_seconds(self, attempts: int) -> float:
        """Random wait before the next attempt, after this many earlier ones; doubles each time up to a limit."""
        longest = min(self._retries.longest_seconds, self._retries.first_seconds * 2.0 ** min(attempts, 30))
        return longest * random.uniform(0.5, 1.0)

    def _set_clock(self, table: str, now: float) -> None:
        """Make entries due whose next attempt is too far ahead, as after the clock was set back."""
        latest = now + max(self._retries.longest_seconds, self._retries.commitment_seconds)
        later = "next_try > 0 AND next_try > ?"
        if self._rows(f"SELECT 1 FROM {table} WHERE {later} LIMIT 1", latest):
            with self.writing() as database:
                database.execute(f"UPDATE {table} SET next_try = ? WHERE {later}", (now, latest))

    def _studies(self, where: str, *values: object) -> list[Study]:
        return [Study(*row) for row in self._rows(f"SELECT {STUDY_COLUMNS} FROM study {where}", *values)]

    def _deliveries(self, where: str, *values: object, limit: int = -1) -> list[Delivery]:
        with self._lock:
            return sending.deliveries(self._database, where, *values, limit=limit)
