"""What stops a training from outside: a hopeless trial, or the end of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning as L

from med_transfer.finetuning.listener import TrainingProgress
from med_transfer.finetuning.module import FinetuningModule
from med_transfer.progress import Progress


class Hopeless(Exception):
    """The trial is below the median of the earlier ones at this point."""


class OutOfTime(Exception):
    """The time is over; what was trained is on disk."""


@dataclass(frozen=True)
class Deadline:
    """``minutes`` from now; None: never."""

    minutes: float | None
    started: float = field(default_factory=time.monotonic)

    @property
    def passed(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.started >= 60 * self.minutes

    def check(self) -> None:
        """Raises OutOfTime."""
        if self.passed:
            raise OutOfTime


class Watcher(TrainingProgress):
    """Tells each step, gives each epoch's best figure so far to ``judge``, and looks at the clock.

    Args:
        judge: called with the epoch and the best smoothed figure up to it; may raise Hopeless.
    """

    def __init__(self, stage: str, progress: Progress, deadline: Deadline, judge: Callable[[int, float], None]) -> None:
        super().__init__(stage, progress)
        self.deadline, self.judge = deadline, judge

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        self.deadline.check()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(pl_module, FinetuningModule):
            best = max(row["smoothed"] for row in pl_module.history)
            self.judge(int(pl_module.history[-1]["epoch"]), best)
