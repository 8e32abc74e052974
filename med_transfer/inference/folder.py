"""Batch inference: every scan of a folder tree or a table, whatever happens to one of them."""

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
from med_transfer.errors import NothingDone, ScanAborted, ScanError, UnreadableScan
from med_transfer.inference.copies import Copies
from med_transfer.inference.listing import ScanToPredict, ScanWithRegion, path_of, scans_to_predict
from med_transfer.inference.shards import TABLE_FILE, WHOLE, Shard, begin
from med_transfer.inference.workers import Reader, in_turn
from med_transfer.predictions.origins import RowOrigins
from med_transfer.predictions.record import Prediction
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
_FEW = 8  # scans below which it is not worth while to start processes


class Predicts(Protocol):
    """What a batch needs of a predictor.

    Attributes:
        record: of its bundle: the classes, whether there is a fusion.
        preprocessing: of its network's input.
        identity: hash of all that decides its answers.
        device: where its network runs.
        needs_handcrafted: whether its answers are made of handcrafted features, too.
    """

    record: BundleRecord
    preprocessing: Preprocessing
    identity: str
    device: torch.device

    @property
    def needs_handcrafted(self) -> bool:
        """See above."""
        ...

    def answer(self, given: NetworkInput, columns: Mapping[str, str] | None = None) -> Prediction:
        """As :meth:`med_transfer.inference.Predictor.answer`. Raises ScanError."""
        ...


@dataclass(frozen=True)
class BatchSettings:
    """How a batch is worked through; its answers do not depend on it.

    Attributes:
        workers: processes that read scans; None: one a processor core.
        shard: which of the scans; one of several has a folder of its own in that of the batch.
        observe: told of each prediction that is made, but not of rows that were there, of attempts that fail again and
            of copies.
        stopped: asked before each scan; once it is True the rest stays without a row, and the batch unfinished.
        tries_again: asked, with the scan's key, whether the next run shall read one again that ended its reader.
        engine: what works through them; None: this machine. See :mod:`med_transfer.inference.on_cluster`.
    """

    workers: int | None = None
    shard: Shard = WHOLE
    observe: Callable[[Prediction], None] = lambda _: None
    stopped: Callable[[], bool] = lambda: False
    tries_again: Callable[[str], bool] = lambda _: True
    engine: Engine | None = None


@dataclass(frozen=True)
class FolderOutcome:
    """What became of a batch; every scan is a row of ``table``, every file that is none is counted as ignored.

    ``n_fused`` of the predicted scans also have a fused prediction; None when the bundle has no fusion. ``n_abstained``
    of them abstain, for the reasons counted by their codes. ``items``: the scans, for whoever looks at some again;
    ``rows`` of the table.
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
        """0 all predicted, 1 some not, 3 none; a shard need have no scan."""
        n_bad = self.n_rejected + self.n_failed
        if n_bad and not self.n_ok:
            return NothingDone.exit_code
        return int(n_bad > 0)


Job = tuple[ScanToPredict, str]  # and the key of what it is made from
Answered = tuple[Prediction, bool]  # and whether another attempt would come to the same


class Engine(Protocol):
    """What works through the scans in place of this machine."""

    def answered(self, jobs: Iterator[Job], workers: int | None) -> Iterator[tuple[Job, Answered]]:
        """Each once, in the order in which they are done; ``workers`` at a time, None: as many as it can."""
        ...


def predict_all(
    predictor: Predicts,
    scans: Path | str | ScanWithRegion,
    out: Path,
    progress: Progress = silent,
    settings: BatchSettings = BatchSettings(),
) -> FolderOutcome:
    """Predict every scan and write ``out/predictions.csv`` as it goes.

    Scans that the table already holds are not predicted again, so a killed run goes on where it was; one whose files,
    region or row have changed since is, and the row of one that is not there any more goes.

    Args:
        predictor: answers for a scan that was read.
        scans: a folder tree of mixed DICOM and other files, one scan, or a ``.csv`` table (labels not needed).
        out: folder of the result.
        progress: told how many scans are done.
        settings: how.

    Raises:
        ScanNotFound: no scan there.
        CohortError: the table cannot be read, or the input has several channels and no table says which scans they are.
        UsageError: a region for several scans, or none where the bundle needs one; the folder holds predictions by
            another bundle, or of scans from another place.
        OutputError: the result cannot be written.
    """
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
    """:func:`predict_all` of those ``items`` that were found in ``scans``; rows of others that are there go."""
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
        record.write(out)
        tally = Tally(progress, "predicting", len(items), ("ok", "rejected", "failed", "abstained"))
        _Batch(predictor, items, origins, tally, settings).write_rows(table)
        table.finish(origins.finish())
        if not settings.stopped():
            record.write(out, table.path)
    return replace(_outcome(out / TABLE_FILE, fused=fused), items=items)


def _settings(predictor: Predicts, scans: Path | str | ScanWithRegion) -> dict[str, str]:
    """What else a row may hang on."""
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
    """The scans that have no row yet, and what becomes of each."""

    predictor: Predicts
    items: Sequence[ScanToPredict]
    origins: RowOrigins
    tally: Tally
    settings: BatchSettings
    _copies: dict[str, list[Job]] = field(default_factory=lambda: defaultdict(list), init=False)  # by original

    def write_rows(self, table: PredictionTable) -> None:
        """A row of each, as soon as it is done, and what the row was made from."""
        with closing(self._predicted()) as predicted:
            for (_, key), (prediction, settled) in predicted:
                again = not settled and self.settings.tries_again(key)
                self.origins.add(key, table.append(prediction), prediction.reason, again=again)
                self.tally.add(prediction.status, *(["abstained"] if prediction.abstained else []))
        self.tally.end()

    def _predicted(self) -> Generator[tuple[Job, Answered], None, None]:
        """In the order in which they are done; copies last, on their own where their original has no answer."""
        answers: dict[str, Prediction] = {}
        for (item, key), (prediction, settled) in self._answered(self._unpredicted()):
            yield (item, key), (prediction, settled)
            if prediction.status == "ok":
                answers[key] = replace(prediction, facts={})  # of a million scans; nobody looks at those of a copy
        for original in [key for key in self._copies if key in answers]:
            for copy in self._copies.pop(original):
                yield copy, (copy[0].named(answers[original], 0.0), True)
        yield from self._answered(itertools.chain(*self._copies.values()))

    def _unpredicted(self) -> Iterator[Job]:
        seen = Copies()
        for item in self.items:
            key = item.key(self.predictor.preprocessing)  # before reading: what changes meanwhile counts as changed
            if self.origins.take(key):
                self.tally.skip()
            elif self.settings.stopped():
                continue
            elif (original := seen.original(item.case, item.series, key)) != key:
                self._copies[original].append((item, key))
            else:
                yield item, key

    def _answered(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Answered]]:
        few = list(itertools.islice(jobs, _FEW))
        jobs = (job for job in itertools.chain(few, jobs) if not self.settings.stopped())
        elsewhere = self.settings.engine
        for job, answered in elsewhere.answered(jobs, self.settings.workers) if elsewhere else self._here(few, jobs):
            if answered[0].status == "ok" or job[1] not in self.origins.tried:  # which was told of then
                self.settings.observe(answered[0])
            yield job, answered

    def _here(self, few: Sequence[Job], jobs: Iterator[Job]) -> Iterator[tuple[Job, Answered]]:
        config, handcrafted = self.predictor.preprocessing.config, self.predictor.needs_handcrafted
        read = partial(_read, config=config, handcrafted=handcrafted)
        if len(few) < _FEW or scan_worker() is None:
            inputs = ((job, read(job, _plainly)) for job in jobs)
        else:
            processes = [ScanWorker(loads=read_input.__module__) for _ in range(self.settings.workers or cores())]
            inputs = in_turn([Reader(read, process) for process in processes], jobs)
        for job, (given, seconds) in inputs:
            yield job, _answer(job[0], given, seconds, self.predictor)


def _plainly(function: Callable[..., NetworkInput], *arguments: Any, where: object, **options: Any) -> NetworkInput:
    return function(*arguments, **options)


def read_and_answer(job: Job, predictor: Predicts, call: Callable[..., NetworkInput]) -> Answered:
    """One scan, whatever becomes of it; ``call`` is :meth:`ScanWorker.call`, or a plain call."""
    config, handcrafted = predictor.preprocessing.config, predictor.needs_handcrafted
    given, seconds = _read(job, call, config=config, handcrafted=handcrafted)
    return _answer(job[0], given, seconds, predictor)


def _read(
    job: Job, call: Callable[..., NetworkInput], *, config: PreprocessingConfig, handcrafted: bool
) -> tuple[NetworkInput | ScanError, float]:
    """What the network is given, or why there is nothing; and the seconds that it took."""
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
