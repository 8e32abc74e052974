"""Training of folds on the machines of a Ray cluster, into the run folder that all of them share.

A finished fold is loaded and not trained again. So a run first trains all folds on the cluster, in parallel, and then
proceeds as on one machine, with the same results: no fold depends on another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

from med_transfer.backbones import LoadedBackbone
from med_transfer.errors import TrainingDiverged
from med_transfer.finetuning.callbacks.progress import TrainingProgress
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.fold_pretraining import encoder_of
from med_transfer.finetuning.fold_training import is_trained
from med_transfer.finetuning.folds import Folds, train_fold
from med_transfer.finetuning.repeats import repeat_file
from med_transfer.progress import Progress, silent
from med_transfer.runtimes.cluster import Cluster, TaskLost, require_on_machine

log = logging.getLogger(__name__)

Job = tuple[int, int]  # position among the folds of sources and configs, and number of the fold
_NETWORK_DRIVE_DELAY_SECONDS = 60.0  # within which a network drive shows what another machine has written


def folds_of_run(run_data: RunData, config: FinetuneConfig, source: LoadedBackbone, folder: Path) -> list[Folds]:
    """The folds of every unfinished repeat, as :func:`~med_transfer.finetuning.folds.train_folds` trains them."""
    return [
        Folds.of(replace(run_data, split=split), config, source, folder, repeat)
        for repeat, split in enumerate(run_data.split.repeats, start=1)
        if repeat == 1 or not repeat_file(folder, repeat).exists()
    ]


def train_on(
    machines: Cluster,
    folds: Sequence[Folds],
    out: Path,
    progress: Progress = silent,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Train the unfinished folds in parallel, each with as many threads as torch uses in this process.

    A fold that diverges, or whose machines are lost repeatedly, is left to the training on this machine.

    Args:
        machines: see :func:`med_transfer.runtimes.cluster.cluster`.
        folds: of one run.
        out: the run folder.
        progress: reports each finished fold.
        meanwhile: called about every second; an exception that it raises ends all work.

    Raises:
        UsageError: a machine lacks the run folder, or has too few cores.
        MedTransferError: as :func:`~med_transfer.finetuning.folds.train_fold`.
    """
    jobs = [
        (place, number)
        for place, of_one in enumerate(folds)
        for number, folder in enumerate(of_one.folders)
        if not is_trained(folder)
    ]
    if not jobs:
        return
    given, gpus = (tuple(folds), out.absolute()), float(torch.cuda.is_available())
    done = chain.from_iterable(
        machines.each(_train, turn, given, cores=torch.get_num_threads(), gpus=gpus, meanwhile=meanwhile)
        for turn in group_by_dependency(jobs, folds)
    )
    for number, ((place, fold), result) in enumerate(done, start=1):
        progress("training on the cluster", number, len(jobs), f"{machines.n_machines} machines")
        if isinstance(result, TaskLost):
            log.warning("a fold was lost on the cluster (%s): it is trained on this machine", result.why)
        elif result:
            _wait_for(folds[place].folders[fold])


def group_by_dependency(jobs: Sequence[Job], folds: Sequence[Folds]) -> list[list[Job]]:
    """Group the jobs: folds that share another fold's encoder start after that fold has pretrained it."""
    first = {job: encoder_of(job[1], folds[job[0]].config) == job[1] for job in jobs}
    turns = ([job for job in jobs if first[job] is begins] for begins in (True, False))
    return [turn for turn in turns if turn]


def _train(job: Job, given: tuple[tuple[Folds, ...], Path]) -> bool:
    """Train one fold; returns whether it finished, and so is in its folder."""
    (place, number), (folds, out) = job, given
    require_on_machine(out)
    try:
        train_fold(folds[place], number, TrainingProgress("", silent))
    except TrainingDiverged:
        return False
    return True


def _wait_for(folder: Path) -> None:
    deadline = time.monotonic() + _NETWORK_DRIVE_DELAY_SECONDS
    while not is_trained(folder) and time.monotonic() < deadline:
        time.sleep(0.5)
