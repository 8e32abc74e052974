"""What may be done with the queue: each method is one transaction and may be called from any thread."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from med_transfer.hospital import record
from med_transfer.hospital.config import Retries
from med_transfer.hospital.database import SharedCommit, transaction
from med_transfer.hospital.queue import answering, completing, departing, keeping, predicting, receiving, sending
from med_transfer.hospital.queue.kinds import (
    Added,
    Delivery,
    Departed,
    Described,
    Feedback,
    Instance,
    ResultFile,
    SeriesAnswer,
    State,
    Study,
)
from med_transfer.hospital.queue.schema import by_the_letter, opened

AT_ONCE = 50  # results that are sent, or asked about, before it is looked again which are the most urgent


class Queue:
    """The database.

    Raises:
        OutputError: the folder cannot be written, or the file is no such database.
    """

    def __init__(self, path: Path, retries: Retries | None = None) -> None:
        self._retries, self._lock, self._reading = retries or Retries(), threading.RLock(), threading.RLock()
        self._arrivals = SharedCommit[Added](self._lock, self.writing)
        self._database, self._reader = opened(path)

    def close(self) -> None:
        """Write everything out."""
        with self._lock, self._reading:
            self._reader.close()
            self._database.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing."""
        with self._lock, transaction(self._database) as database:
            yield database

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    # Receiving ------------------------------------------------------------------------------------------------

    def judge(self, instance: Instance, most: int) -> Added:
        """Whether an instance is new; nothing is changed, and no commit is waited for."""
        with self._reading:
            return receiving.judged(self._reader, instance, most)

    def add(self, instance: Instance, now: float, most: int = 1 << 30, priority: int = 0) -> Added:
        """Take an instance whose file is on the disk; a study that was further on is opened again.

        One that nobody announced shows that what was announced is not all. A study has the highest ``priority`` of its
        instances: 1 high, 0 medium, -1 low.

        What several associations bring at one time waits for one commit together.
        """
        return self._arrivals.write(lambda database: receiving.take(database, instance, now, most, priority))

    def set_aside(self, reason: str, caller: str, file: str, now: float) -> None:
        """Remember a file that was not taken, and why."""
        with self.writing() as database:
            database.execute(
                "INSERT INTO aside (time, reason, caller, file) VALUES (?, ?, ?, ?)", (now, reason, caller, file)
            )
            record.append(database, "set aside", reason=reason, caller=caller, file=file)

    # Is it all? -----------------------------------------------------------------------------------------------

    def announce(self, study: str, sop_uids: Iterable[str], now: float) -> None:
        """There are such instances of a study, which may not have begun to come."""
        rows = [(study, uid, now) for uid in sop_uids]
        with self.writing() as database:
            database.executemany("INSERT OR REPLACE INTO expected VALUES (?, ?, ?)", rows)
            record.append(database, "announced", study=study)

    def to_count(self, now: float, quiet_seconds: float) -> list[Study]:
        """Studies of which nothing has come for so long, and of which the PACS has not been asked for as long."""
        before = now - quiet_seconds
        where = "WHERE state = 'received' AND changed <= ? AND counted <= ? ORDER BY changed"
        return self._studies(where, before, before)

    def counted(self, study: Study, sop_uids: Iterable[str], now: float) -> None:
        """The PACS has these instances of a study."""
        with self.writing() as database:
            completing.expect(database, study.id, set(sop_uids), now)

    def not_counted(self, study: Study, reason: str) -> None:
        """The PACS cannot say."""
        with self.writing() as database:
            database.execute("UPDATE study SET reason = ? WHERE id = ? AND state = 'received'", (reason, study.id))

    def missing(self, study: str) -> int:
        """How many of its images were announced, or are in the PACS, and are not here."""
        with self._lock:
            return completing.missing(self._database, study)

    def listening(self, now: float) -> None:
        """Nothing could come while the node was down: quiet time begins anew."""
        with self.writing() as database:
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
        with self.writing() as database:
            return completing.close(database, now, quiet_seconds, longest_seconds, counting)

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

    def file_of(self, study: str, sop_uid: str) -> str:
        """Of an instance; empty where there is none."""
        rows = self._rows("SELECT file FROM instance WHERE study = ? AND sop_uid = ?", study, sop_uid)
        return rows[0][0] if rows else ""

    def images_here(self, study: str) -> set[str]:
        """UIDs of its instances that have their file."""
        return {row[0] for row in self._rows("SELECT sop_uid FROM instance WHERE study = ? AND file != ''", study)}

    def lost(self, study: str, files: Iterable[str]) -> None:
        """These are not on the disk any more: when the images are sent again they are taken again."""
        rows = [(study, file) for file in files]
        with self.writing() as database:
            database.executemany("UPDATE instance SET file = '' WHERE study = ? AND file = ?", rows)
            record.append(database, "images lost", study=study, count=len(rows))

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
        answers: Sequence[SeriesAnswer] = (),
    ) -> bool:
        """The study's results are on the disk; False where it has changed meanwhile, and they count for nothing.

        Args:
            study: as it was when it was predicted.
            results: of this revision.
            destinations: who gets them, and whether they are asked for commitment.
            now: seconds.
            facts: for the record, an entry each.
            answers: for the page.
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
        """Something went wrong that may go better later; ``for_good``: after too many attempts it is a dead letter."""
        dead = for_good and study.attempts + 1 >= self._retries.predictions
        with self.writing() as database:
            predicting.fail(database, study, reason, now, now + self.wait_seconds(study.attempts), dead)

    def earlier_results(self, study: Study, route: str = "") -> list[ResultFile]:
        """A route's results of earlier revisions that somebody has, or may have, the latest last."""
        with self._lock:
            return predicting.earlier_results(self._database, study, route)

    # Which bundle ---------------------------------------------------------------------------------------------

    def use_bundle(self, route: str, mark: str, event: str, **facts: object) -> None:
        """From now on; ``event``: how the record calls it, and what it is told of it."""
        with self.writing() as database:
            database.execute("INSERT INTO bundle (route, mark) VALUES (?, ?)", (route, mark))
            record.append(database, event, route=route, bundle_files=mark, **facts)

    def bundles_in_use(self) -> dict[str, str]:
        """Marks, by route."""
        return {route: self.bundles(route)[0] for (route,) in self._rows("SELECT DISTINCT route FROM bundle")}

    def bundles(self, route: str) -> list[str]:
        """Marks of the bundles that were in use, each once, the one that is in use first."""
        rows = self._rows("SELECT mark FROM bundle WHERE route = ? GROUP BY mark ORDER BY max(number) DESC", route)
        return [row[0] for row in rows]

    def departed(self, bundles: Mapping[str, str]) -> list[Departed]:
        """Answers of other routes than these, with the mark of the bundle of each, that were not taken back."""
        with self._lock:
            return departing.departed(self._database, bundles)

    def go_on(self, bundles: Mapping[str, str], study: str = "") -> list[Departed]:
        """The same after routes with a new name have taken over what was said under the old one."""
        with self.writing() as database:
            return departing.go_on(database, bundles, study)

    def take_back(self, departed: Iterable[Departed], now: float) -> tuple[int, int]:
        """Have their studies predicted anew; how many, and how many have no images here any more."""
        with self.writing() as database:
            return departing.ask_again(database, sorted({one.study for one in departed}), now)

    # Sending --------------------------------------------------------------------------------------------------

    def to_send(self, destination: str, now: float) -> list[Delivery]:
        """What waits for a destination and is due, the most urgent first: some, so that what comes may go before."""
        self._set_clock("delivery", now)
        where = "destination = ? AND delivery.state = 'waiting' AND delivery.next_try <= ?"
        return self._deliveries(where, destination, now, most=AT_ONCE)

    def begin(self, delivery: Delivery) -> bool:
        """It is about to be sent, which is on the disk before it goes out: a kill must not hide what was taken.

        False where it waits no more: while those before it are sent, a late image may come, or its destination go.
        """
        with self.writing() as database:
            return sending.begin(database, delivery)

    def to_commit(self, destination: str, now: float) -> list[Delivery]:
        """Some of what a destination has taken and is to be asked about, the first time or again."""
        where = "destination = ? AND delivery.state = 'sent' AND commitment AND delivery.next_try <= ?"
        return self._deliveries(where, destination, now, most=AT_ONCE)

    def sent(self, delivery: Delivery, now: float) -> None:
        """The destination has taken it."""
        with self.writing() as database:
            sending.settle(database, delivery, "sent", now)

    def not_sent(self, delivery: Delivery, reason: str, now: float) -> None:
        """It was refused or could not be reached; the next try is later, or never."""
        dead = delivery.attempts + 1 >= self._retries.attempts
        with self.writing() as database:
            sending.fail(database, delivery, reason, now, now + self.wait_seconds(delivery.attempts), dead)

    def asked(self, deliveries: Sequence[Delivery], transaction_uid: str, ask_again: float) -> None:
        """Commitment is asked for under this UID, for the last time where too many questions had no answer."""
        with self.writing() as database:
            for delivery in deliveries:
                dead = delivery.attempts + 1 >= self._retries.attempts
                sending.ask(database, delivery, transaction_uid, ask_again, dead, time.time())

    def answered(self, transaction_uid: str, sender: str, committed: set[str], failed: dict[str, int], now: float):
        """A destination commits to some results, and not to others, which are then sent again.

        Args:
            transaction_uid: of the question; an answer to none is passed over.
            sender: AE title of who answers; only who was asked may.
            committed: UIDs.
            failed: UID to the reason, DICOM PS3.3 C.14.1.1.
            now: seconds.
        """
        where = f"{sending.ASKED_UNDER} AND destination LIKE ? ESCAPE '\\'"
        like = by_the_letter(sender) + "@%"
        asked = self._deliveries(where, transaction_uid, like) if transaction_uid else []
        for delivery in asked:
            if delivery.sop_uid in failed:
                self.not_sent(delivery, f"commitment_refused_{failed[delivery.sop_uid]:04X}", now)
            elif delivery.sop_uid in committed:
                with self.writing() as database:
                    sending.settle(database, delivery, "committed", now)

    def is_unanswered(self, transaction_uid: str) -> bool:
        """Whether something that was asked about under this UID waits for an answer."""
        return bool(self._deliveries(sending.ASKED_UNDER, transaction_uid))

    # For people -----------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for questions, which waits for no writer."""
        with self._reading:
            yield self._reader

    def describe(self, study: str, described: Described) -> None:
        """Whose study it is, for the page."""
        with self.writing() as database:
            answering.describe(database, study, described)

    def undescribed(self) -> list[tuple[str, str]]:
        """Studies of which the page does not know whose they are, each with one of its files."""
        with self._lock:
            return answering.undescribed(self._database)

    def judged(self, said: Feedback, now: float) -> bool:
        """Keep what a person says of an answer, for good.

        False where another answer has taken its place, or a rerun of what is not done or has no images any more.
        """
        with self.writing() as database:
            again = said.kind == "rerun"
            if again and not answering.may_ask_again(database, said.study):
                return False
            kept = answering.judge(database, said, now)
            if kept and again:
                answering.ask_again(database, said.study, now)
                receiving.supersede(database, said.study)
        return kept

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

    def abandon(self, destinations: Iterable[str], now: float) -> int:
        """What is meant for others than these is a dead letter; how many results."""
        with self.writing() as database:
            return sending.abandon(database, list(destinations), now)

    def release(self, destinations: Iterable[str], now: float) -> int:
        """Only these are asked for commitment now; how many results were to be committed to by others."""
        with self.writing() as database:
            return sending.release(database, list(destinations), now)

    def retry(self, study: str = "") -> int:
        """Try dead letters, and what waits for its next try, at once: of one study or of all. How many."""
        with self.writing() as database:
            return sending.retry(database, study)

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
        with self._lock:
            return keeping.to_forget(self._database, before)

    def forgotten(self, study: str, before: float) -> list[str]:
        """The study's files, which the queue knows no more: what is sent again will be taken again.

        None where the study is not one of ``to_forget`` any more.
        """
        with self.writing() as database:
            return keeping.forget(database, study, before)

    def forgotten_aside(self, before: float) -> list[str]:
        """Files that were set aside before, which the queue knows no more."""
        with self.writing() as database:
            return keeping.forget_aside(database, before)

    def forget_announced(self, before: float) -> int:
        """What was announced before, of studies of which nothing has come; how many images."""
        with self.writing() as database:
            return keeping.forget_announced(database, before)

    def files(self, study: str = "") -> set[str]:
        """All that the queue knows: images of one study, or of all and what was set aside."""
        if study:
            return {row[0] for row in self._rows("SELECT file FROM instance WHERE study = ? AND file != ''", study)}
        return {row[0] for row in self._rows("SELECT file FROM instance UNION SELECT file FROM aside")}

    # Inside ---------------------------------------------------------------------------------------------------

    def wait_seconds(self, attempts: int) -> float:
        """Until the next try, after so many before this one."""
        longest = min(self._retries.longest_seconds, self._retries.first_seconds * 2.0 ** min(attempts, 30))
        return longest * random.uniform(0.5, 1.0)

    def _set_clock(self, table: str, now: float) -> None:
        """Nothing waits longer than the longest wait, even when the clock was set back."""
        latest = now + max(self._retries.longest_seconds, self._retries.commitment_seconds)
        later = "next_try > 0 AND next_try > ?"
        if self._rows(f"SELECT 1 FROM {table} WHERE {later} LIMIT 1", latest):
            with self.writing() as database:
                database.execute(f"UPDATE {table} SET next_try = ? WHERE {later}", (now, latest))

    def _studies(self, where: str, *values: object) -> list[Study]:
        query = f"SELECT id, study_uid, state, revision, attempts, reason FROM study {where}"
        return [Study(*row) for row in self._rows(query, *values)]

    def _deliveries(self, where: str, *values: object, most: int = -1) -> list[Delivery]:
        with self._lock:
            return sending.deliveries(self._database, where, *values, most=most)
