"""Batch inference on the machines of a Ray cluster. The calling process alone writes rows and their origins."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from med_transfer.cohorts import read_input, without_prediction
from med_transfer.errors import ScanAborted, UsageError
from med_transfer.errors.sentence import Sentence
from med_transfer.inference.folder import Answered, Job, read_and_answer
from med_transfer.inference.predictor import Predictor
from med_transfer.runtimes import Runtime
from med_transfer.runtimes.cluster import Cluster, TaskLost, require_on_machine
from med_transfer.scans.isolation.scan_worker import ScanWorker


@dataclass(frozen=True)
class _PredictorSpec:
    """What each machine needs to load the same predictor."""

    bundle: Path
    device: str
    runtime: Runtime
    identity: str
    scans: Path


@dataclass(frozen=True)
class OnCluster:
    """Engine for :class:`~med_transfer.inference.BatchSettings`; each scan is read and predicted on one cluster core.

    Args:
        machines: see :func:`med_transfer.runtimes.cluster.cluster`.
        predictor: the predictor to reproduce; each process of the cluster loads its bundle once.
        scans: folder or table of the scans, at the same path on all machines.
    """

    machines: Cluster
    predictor: Predictor
    scans: Path

    def answered(self, jobs: Iterator[Job], workers: int | None) -> Iterator[tuple[Job, Answered]]:
        """Yield each job with the result that the batch's own process would have given.

        Raises:
            UsageError, BundleError: a machine lacks the scans or the bundle, or has a different bundle.
        """
        predictor, device = self.predictor, self.predictor.device.type
        spec = _PredictorSpec(
            predictor.folder.absolute(), device, predictor.runtime, predictor.identity, self.scans.absolute()
        )
        gpus = 1.0 if device == "cuda" else 0.0
        for job, result in self.machines.each(_answer, jobs, spec, gpus=gpus, max_in_flight=workers):
            yield job, (_failed_row(job, result) if isinstance(result, TaskLost) else result)


def _answer(job: Job, spec: _PredictorSpec) -> Answered:
    predictor, process = _loaded(spec)
    return read_and_answer(job, predictor, process.call)


@lru_cache(maxsize=1)
def _loaded(spec: _PredictorSpec) -> tuple[Predictor, ScanWorker]:
    """Load the bundle, once per process."""
    require_on_machine(spec.bundle)
    require_on_machine(spec.scans)
    remarks = logging.getLogger("med_transfer")
    level = remarks.level
    remarks.setLevel(logging.ERROR)  # the calling process has logged them already
    try:
        predictor = Predictor(spec.bundle, spec.device, runtime=spec.runtime)
    finally:
        remarks.setLevel(level)
    if predictor.identity != spec.identity:
        raise UsageError(
            f"computed by {predictor.chosen.name} with another bundle, export or precision",
            where=spec.bundle,
            expected="the same on every machine",
            action="Compare the bundle's folder there, or use --runtime torch",
        )
    return predictor, ScanWorker(loads=read_input.__module__)


def _failed_row(job: Job, lost: TaskLost) -> Answered:
    """A failed row, marked to be tried again by the next run."""
    item = job[0]
    error = ScanAborted(
        Sentence("the processes or machines that worked on it were lost repeatedly ({why})", why=lost.why),
        where=item.case.path,
    )
    return item.named(without_prediction(item.case, error), 0.0), False
