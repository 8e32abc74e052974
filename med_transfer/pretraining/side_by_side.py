"""Several pretrainings, in parallel as far as threads allow, each in its own process.

A slice network learns hardly faster on two cores than on one, but two of them in parallel on two cores take half the
time. Results do not depend on parallelism, since each pretraining always has the same number of threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from med_transfer.atomic import write_text
from med_transfer.errors import ScanAborted
from med_transfer.model.features import best_device
from med_transfer.pretraining.config import PretrainingConfig
from med_transfer.pretraining.run import Pretrained, finished_pretraining, pretrain
from med_transfer.pretraining.source.scans import SourceScans
from med_transfer.progress import Progress, silent
from med_transfer.scans.isolation.limits import IN_PROCESS, ReadLimits
from med_transfer.scans.isolation.scan_worker import ScanWorker

log = logging.getLogger(__name__)
_POLL_SECONDS = 1.0  # between two checks of their progress
_NO_LIMITS = ReadLimits(seconds=0, gib=0)
_CHILD = "med_transfer.pretraining.child"


@dataclass(frozen=True)
class Pretraining:
    """Arguments of one :func:`~med_transfer.pretraining.pretrain`; ``config.steps`` is its budget.

    Attributes:
        scans: makes the scans, called when the pretraining starts.
        content_hashes: of these scans.
        config: of the pretraining.
        out: its folder.
    """

    scans: Callable[[], SourceScans]
    content_hashes: Sequence[str]
    config: PretrainingConfig
    out: Path


def n_parallel(count: int, threads: int) -> int:
    """How many of ``count`` pretrainings run in parallel, with ``threads`` threads each.

    One on a GPU, on Windows, and if child processes are turned off for debugging.
    """
    if best_device().type != "cpu" or os.name != "posix" or os.environ.get(IN_PROCESS):
        return 1
    return max(1, min(count, torch.get_num_threads() // threads))


def pretrain_each(jobs: Sequence[Pretraining], threads: int, progress: Progress = silent) -> list[Pretrained]:
    """Run all pretrainings, with ``threads`` threads each; finished ones are loaded without reading their scans.

    Args:
        progress: reports the steps of all pretrainings together.

    Raises:
        As :func:`~med_transfer.pretraining.pretrain`.
    """
    found = [finished_pretraining(job.config, job.out, job.content_hashes) for job in jobs]
    learned = _learned([job for job, made in zip(jobs, found, strict=True) if made is None], threads, progress)
    return [made or next(learned) for made in found]


def _learned(jobs: Sequence[Pretraining], threads: int, progress: Progress) -> Iterator[Pretrained]:
    side_by_side = n_parallel(len(jobs), threads)
    if side_by_side == 1:
        yield from (_pretrain(threads, job.scans(), job.config, job.out, progress) for job in jobs)
        return
    for job, made in zip(jobs, _each_in_a_child(jobs, threads, side_by_side, progress), strict=True):
        if made is None:
            log.warning("an encoder's process ended before its pretraining did, which continues in this process")
        yield made or _pretrain(threads, job.scans(), job.config, job.out, progress)


def _each_in_a_child(
    jobs: Sequence[Pretraining], threads: int, side_by_side: int, progress: Progress
) -> list[Pretrained | None]:
    """Run each job in a child process; None for one whose process ended early."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress_files = [folder / str(number) for number in range(len(jobs))]
        pool = stack.enter_context(ThreadPoolExecutor(side_by_side))
        workers = [stack.enter_context(ScanWorker(_NO_LIMITS, loads=_CHILD)) for _ in jobs]
        stack.callback(over.set)  # runs first on exit, so that nothing starts while the workers are closed
        each = zip(workers, jobs, progress_files, strict=True)
        futures = [pool.submit(_in_child, *one, threads, over) for one in each]
        _wait(futures, progress_files, progress, f"pretraining {len(jobs)} encoders", f"{side_by_side} at once")
        return [future.result() for future in futures]


def _pretrain(threads: int, scans: SourceScans, config: PretrainingConfig, out: Path, progress: Progress) -> Pretrained:
    with in_threads(threads):
        return pretrain(scans, config, out, progress=progress, source_features=False)


@contextlib.contextmanager
def in_threads(threads: int) -> Iterator[None]:
    """Set the number of torch's threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_child(
    worker: ScanWorker, job: Pretraining, progress_file: Path, threads: int, over: threading.Event
) -> Pretrained | None:
    scans = None if over.is_set() else job.scans()
    try:
        if scans is None or over.is_set():
            return None
        return worker.call(_pretrain_with_progress_file, threads, scans, job.config, job.out, progress_file)
    except ScanAborted as error:  # for example out of memory
        log.info("an encoder's process: %s", error)
        return None
    finally:
        worker.close()


def _pretrain_with_progress_file(
    threads: int, scans: SourceScans, config: PretrainingConfig, out: Path, progress_file: Path
) -> Pretrained:
    def report(stage: str, done: int, total: int, note: str = "") -> None:
        write_text(progress_file, f"{done} {total}")

    return _pretrain(threads, scans, config, out, report)


def _wait(
    futures: Sequence[Future[Pretrained | None]],
    progress_files: Sequence[Path],
    progress: Progress,
    stage: str,
    note: str,
) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, _POLL_SECONDS)
        for future in done:
            future.result()
        steps = [_steps(file) for file in progress_files]
        if any(total for _, total in steps):
            progress(
                stage, sum(step for step, _ in steps), len(progress_files) * max(total for _, total in steps), note
            )


def _steps(file: Path) -> tuple[int, int]:
    try:
        done, total = map(int, file.read_text().split())
    except (OSError, ValueError):
        return 0, 0
    return done, total
