"""Training of one config on the development folds, with test scans removed beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L

from med_transfer.cohorts import Split
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.callbacks.progress import TrainingProgress
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.fold_training import TrainedNetwork
from med_transfer.finetuning.lightning_module import FinetuningModule
from med_transfer.progress import Progress
from med_transfer.tuning.deadline import Deadline


def without_test_scans(run_data: RunData) -> RunData:
    """The same folds of the development cohort alone: it holds neither voxels nor labels of test scans."""
    development = run_data.split.development
    place = {case: position for position, case in enumerate(development)}

    def moved(cases: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(place[case] for case in cases)

    split = Split((), tuple(map(moved, run_data.split.validation)), moved(run_data.split.always_training))
    return replace(run_data, prepared=replace(run_data.prepared.subset(development), failed=()), split=split)


def kept_figure(model: TrainedNetwork) -> float:
    """The smoothed validation figure at the epoch whose weights were kept."""
    return next(row["smoothed"] for row in model.history if int(row["epoch"]) == model.best_epoch)


def config_name(config: FinetuneConfig) -> str:
    """A hash of the config, by which an interrupted trial finds its state."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]


class TrialProgress(TrainingProgress):
    """Reports each step as progress and each epoch's best figure so far, and checks the deadline.

    Args:
        report: called with the epoch and the best smoothed figure up to it; may raise to end the trial.
    """

    def __init__(
        self, stage: str, progress: Progress, deadline: Deadline, report: Callable[[int, float], None]
    ) -> None:
        super().__init__(stage, progress)
        self.deadline, self.report = deadline, report

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Report a step and check the deadline. Raises OutOfTime, KeyboardInterrupt."""
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        self.deadline.check()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the best figure up to this epoch."""
        if isinstance(pl_module, FinetuningModule):
            best = max(row["smoothed"] for row in pl_module.history)
            self.report(int(pl_module.history[-1]["epoch"]), best)
