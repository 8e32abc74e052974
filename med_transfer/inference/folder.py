"""Batch inference over every scan of a folder tree or table; one that fails does not stop the others."""

from __future__ import annotations

import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.bundle import BundleRecord, versions
from med_transfer.cohorts import NetworkInput, cache_key, read_input, without_prediction
from med_transfer.errors import ScanAborted, ScanError, UnreadableScan
from med_transfer.errors.given_numbers import whole_number
from med_transfer.inference.copies import Copies
from med_transfer.inference.listing import ScanToPredict, ScanWithRegion, path_of, require_outside, scans_to_predict
from med_transfer.inference.shards import TABLE_FILE, WHOLE, Shard, begin
from med_transfer.inference.workers import Reader, as_completed
from med_transfer.predictions.origins import RowOrigins
from med_transfer.predictions.record import Prediction, exit_code
from med_transfer.predictions.table import PredictionTable, why_abstained
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.processor import cores
from med_transfer.progress import Progress, Tally, log_file, remark, silent
from med_transfer.scans.isolation import confined
from med_transfer.scans.isolation import worker as scan_worker
from med_transfer.scans.isolation.limits import ReadLimits
from med_transfer.scans.isolation.scan_worker import ScanWorker

log = logging.getLogger(__name__)

LOG_FILE = "run.log"
_FEW = 8  # with fewer scans, starting reader processes does not pay


class Predicts(Protocol):
    """The interface that a batch needs from a predictor.

    Attributes:
        record: the bundle's record, with its classes and fusion.
        preprocessing: turns scans into the network's input.
        identity: hash of everything that determines its predictions.
        device: the device that the network runs on.
        needs_handcrafted: whether its predictions also use handcrafted features.
    """

    record: BundleRecord
    preprocessing: Preprocessing
    identity: str
    device: torch.device

    @property
    def needs_handcrafted(self) -> bool:
        """Whether its predictions also use handcrafted features."""
        ...

    def answer(self, given: NetworkInput, columns: Mapping[str, str] | None = None) -> Prediction:
        """Predict; see :meth:`med_transfer.inference.Predictor.answer`. Raises ScanError."""
        ...


@dataclass(frozen=True)
class BatchSettings:
    """How a batch is processed; the predictions do not depend on it.

    Attributes:
        workers: number of processes that read scans; None: one per processor core.
        shard: the part of the scans to process; one of several has its own folder within that of the batch.
        observe: called with each new prediction, but not for rows that already exist, repeated failures, or copies.
        stopped: called before each scan; once it returns True, the remaining scans get no row and the batch stays
            unfinished.
        ended: called when no more predictions follow, also after an error or Ctrl-C, before another run may write to
            the folder.
        finished: called with the outcome, before another run may write to the folder.
        tries_again: called with the key of a scan that crashed its reader; whether the next run should try it again.
        engine: what processes the scans; None: this machine. See :mod:`med_transfer.inference.on_cluster`.

    Raises:
        UsageError: ``workers`` is no number of processes.
    """

    workers: int | None = None
    shard: Shard = WHOLE
    observe: Callable[[Prediction], None] = lambda _: None
    stopped: Callable[[], bool] = lambda: False
    ended: Callable[[], None] = lambda: None
    finished: Callable[[FolderOutcome], None] = lambda _: None
    tries_again: Callable[[str], bool] = lambda _: True
    engine: Engine | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            whole_number(self.workers, "workers", 1)


@dataclass(frozen=True)
class FolderOutcome:
    """Outcome of a batch.

    Attributes:
        table: predictions.csv, one row per scan.
        n_ok, n_rejected, n_failed: rows by status.
        n_ignored: files that are not scans.
        n_fused: predicted scans that also have a fused prediction; None if the bundle has no fusion.
        n_abstained: predictions that abstain.
        why_abstained: how many abstain for each reason, by its code.
        items: the scans, for callers that read some of them again.
        rows: the rows of the table.
    """

    table: Path
    n_ok: int
    n_rejected: int
    n_failed: int
    n_ignored: int = 0
    n_fused: int | None = None
    n_abstained: int = 0
    why_abstained: Mapping[str, int] = field(default_factory=dict)
    items: Sequence[ScanToPredict] = field(default=(), repr=False, compare=False)
    rows: Sequence[Prediction] = field(default=(), repr=False, compare=False)

    @property
    def exit_code(self) -> int:
        """See :func:`med_transfer.predictions.record.exit_code`."""
        return exit_code(self.n_ok, self.n_rejected + self.n_failed)


Job = tuple[ScanToPredict, str]  # the scan, and the key of everything that its row depends on
Answered = tuple[Prediction, bool]  # the prediction, and whether another attempt would give the same


class Engine(Protocol):
    """Processes scans elsewhere than on this machine."""

    def answered(self, jobs: Iterator[Job], workers: int | None) -> Iterator[tuple[Job, Answered]]:
        """Yield each job once, in order of completion; ``workers`` at a time, or as many as possible if None."""
        ...


def predict_all(
    predictor: Predicts,
    scans: Path | str | ScanWithRegion,
    out: Path,
    progress: Progress = silent,
    settings: BatchSettings = BatchSettings(),
) -> FolderOutcome:
    """Predict every scan, adding rows to ``out/predictions.csv`` as they are done.

    An interrupted run resumes: scans that already have a row are skipped, unless their files, region or table row have
    changed since. Rows of scans that no longer exist are removed.

    Args:
        predictor: makes a prediction from a scan's network input.
        scans: a folder tree of mixed DICOM and other files, one scan, or a ``.csv`` table (labels not needed).
        out: folder for the result.
        progress: called with the number of scans that are done.
        settings: how the batch is processed.

    Raises:
        ScanNotFound: there are no scans.
        CohortError: the table cannot be read, or the input has several channels and no table assigns scans to them.
        UsageError: a region was given for several scans, or none though the bundle needs one; or ``out`` lies within
            the folder of the scans, or holds predictions by another bundle, or of scans from another place.
        FolderInUse: another run is writing to ``out``.
        OutputError: the result cannot be written.
    """
    require_outside(out, path_of(scans))
    config, handcrafted = predictor.preprocessing.config, predictor.needs_handcrafted
    items, n_ignored = scans_to_predict(scans, config, progress, handcrafted=handcrafted)
    return replace(predict_items(predictor, scans, items, out, progress, settings), n_ignored=n_ignored)


def predict_items(
    predictor: Predicts,
    scans: Path | str | ScanWithRegion,
    items: Sequence[ScanToPredict],
    out: Path,
    progress: Progress = silent,
    settings: BatchSettings = BatchSettings(),
) -> FolderOutcome:
    """Like :func:`predict_all`, for only the given ``items`` of ``scans``; rows of any other scan are removed."""
    made_by = {"bundle": predictor.identity, "version": cache_key(versions()), "device": str(predictor.device)}
    record, is_own = begin(settings.shard, [item.name for item in items], made_by, _settings(predictor, scans))
    items, made_by["scans"] = list(itertools.compress(items, is_own)), cache_key(str(path_of(scans).resolve()))
    out, fused = out / settings.shard.folder, predictor.record.fusion is not None
    with (
        sole_writer(out, "a batch of predictions"),
        log_file(out / LOG_FILE, delay=True),
        PredictionTable(out / TABLE_FILE, predictor.record.labels, fused=fused) as table,
    ):
        origins = RowOrigins(table.path, table.lines, made_by)
        table.keep(origins.done)  # a scan that is tried again has no second row meanwhile
        record.write(out)
        tally = Tally(progress, "predicting", len(items), ("ok", "rejected", "failed", "abstained"))
        try:
            _Batch(predictor, items, origins, tally, settings).write_rows(table)
        finally:
            settings.ended()
        table.finish(origins.finish())
        if not settings.stopped():
            record.write(out, table.path)
        outcome = replace(_outcome(table.path, fused=fused), items=items)
        settings.finished(outcome)
    return outcome


def _settings(predictor: Predicts, scans: Path | str | ScanWithRegion) -> dict[str, str]:
    """Further settings that a row may depend on: device, read limits, region."""
    limits = ReadLimits.from_environment()
    region = {"region": repr((str(scans.mask), scans.roi_mm))} if isinstance(scans, ScanWithRegion) else {}
    of_reading = {"read_seconds": f"{limits.seconds:g}", "read_gib": f"{limits.gib:g}"}
    return {"device": str(predictor.device), **of_reading, **region}


def _outcome(table: Path, *, fused: bool) -> FolderOutcome:
    rows = PredictionTable.load(table)
    statuses = [row.status for row in rows]
    counts = (statuses.count(word) for word in ("ok", "rejected", "failed"))
    n_fused = sum(bool(row.fused) for row in rows) if fused else None
    n_abstained = sum(row.abstained for row in rows)
    return FolderOutcome(
        table,
        *counts,
        n_fused=n_fused,
        n_abstained=n_abstained,
        why_abstained=why_abstained(rows),
        rows=rows,
    )


@dataclass
class _Batch:
    """Predicts the scans that have no row yet."""

    predictor: Predicts
    items: Sequence[ScanToPredict]
    origins: RowOrigins
    tally: Tally
    settings: BatchSettings
    _seen: Copies = field(default_factory=Copies, init=False)
    _copies: dict[str, list[Job]] = field(default_factory=lambda: defaultdict(list), init=False)  # by original

    def write_rows(self, table: PredictionTable) -> None:
        """Append each scan's row as soon as it is done, and note what the row was made from."""
        with closing(self._predicted()) as predicted:
            for (item, key), (prediction, settled) in predicted:
                settled = settled and (prediction.status == "ok" or item.key(self.predictor.preprocessing) == key)
                again = not settled and self.settings.tries_again(key)  # a file that is away now may come back
                self.origins.add(key, table.append(prediction), prediction.reason, again=again)
                self.tally.add(prediction.status, *(["abstained"] if prediction.abstained else []))
        self.tally.end()

    def _predicted(self) -> Generator[tuple[Job, Answered], None, None]:
        """Yield in order of completion, copies last; a copy is predicted itself if its original has no prediction, or
        has changed since they were compared."""
        answers: dict[str, Prediction] = {}
        for (item, key), (prediction, settled) in self._answered(self._unpredicted()):
            yield (item, key), (prediction, settled)
            if prediction.status == "ok":
                answers[key] = replace(prediction, facts={})  # unused for copies; there may be a million scans
        for original in [key for key in self._copies if key in answers and self._seen.unchanged(key)]:
            for copy in self._copies.pop(original):
                yield copy, (copy[0].named(answers[original], 0.0), True)
        yield from self._answered(itertools.chain(*self._copies.values()))

    def _unpredicted(self) -> Iterator[Job]:
        for item in self.items:
            key = item.key(self.predictor.preprocessing)  # before reading, so that a change meanwhile counts as one
            if self.origins.take(key):
                self.tally.skip()
            elif self.settings.stopped():
                continue
            elif (original := self._seen.original(item.case, item.series, key)) != key:
                self._copies[original].append((item, key))
            else:
                yield item, key

    def _answered(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Answered]]:
        few = list(itertools.islice(jobs, _FEW))
        jobs = (job for job in itertools.chain(few, jobs) if not self.settings.stopped())
        elsewhere = self.settings.engine
        for job, answered in elsewhere.answered(jobs, self.settings.workers) if elsewhere else self._here(few, jobs):
            if answered[0].status == "ok" or job[1] not in self.origins.tried:  # else observed before
                self.settings.observe(answered[0])
            yield job, answered

    def _here(self, few: Sequence[Job], jobs: Iterator[Job]) -> Iterator[tuple[Job, Answered]]:
        config, handcrafted = self.predictor.preprocessing.config, self.predictor.needs_handcrafted
        read = partial(_read, config=config, handcrafted=handcrafted)
        if len(few) < _FEW or scan_worker() is None:
            inputs = ((job, read(job, _direct_call)) for job in jobs)
        else:
            processes = [ScanWorker(loads=read_input.__module__) for _ in range(self.settings.workers or cores())]
            inputs = as_completed([Reader(read, process) for process in processes], jobs)
        for job, (given, seconds) in inputs:
            yield job, _answer(job[0], given, seconds, self.predictor)


def _direct_call(function: Callable[..., NetworkInput], *arguments: Any, where: object, **options: Any) -> NetworkInput:
    return function(*arguments, **options)


def read_and_answer(job: Job, predictor: Predicts, call: Callable[..., NetworkInput]) -> Answered:
    """Read and predict one scan; a scan that fails becomes a row, too. ``call`` is :meth:`ScanWorker.call`, or calls
    directly."""
    config, handcrafted = predictor.preprocessing.config, predictor.needs_handcrafted
    given, seconds = _read(job, call, config=config, handcrafted=handcrafted)
    return _answer(job[0], given, seconds, predictor)


def _read(
    job: Job, call: Callable[..., NetworkInput], *, config: PreprocessingConfig, handcrafted: bool
) -> tuple[NetworkInput | ScanError, float]:
    """The network's input, or the error that prevented it, and the seconds that reading took."""
    started, item = time.monotonic(), job[0]
    try:
        if item.damage:
            raise UnreadableScan(item.damage, where=item.case.scan)
        given = call(read_input, item.case, config, item.series, handcrafted=handcrafted, where=item.case.path)
    except ScanError as error:
        given = error
    return given, time.monotonic() - started


def _answer(item: ScanToPredict, given: NetworkInput | ScanError, seconds: float, predictor: Predicts) -> Answered:
    started, settled = time.monotonic() - seconds, True
    try:
        if isinstance(given, ScanError):
            raise given
        with confined(item.case.path):
            prediction = predictor.answer(given, item.case.columns)
    except ScanError as error:
        remark(log, "no prediction: %s", error, kind=error.problem)
        prediction, settled = without_prediction(item.case, error), not isinstance(error, ScanAborted)
    return item.named(prediction, time.monotonic() - started), settled
