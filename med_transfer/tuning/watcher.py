"""What stops a training from outside: a hopeless trial, or the end of the time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import lightning as L

from med_transfer.finetuning.callbacks.progress import TrainingProgress
from med_transfer.finetuning.module import FinetuningModule
from med_transfer.progress import Progress


class TrialPruned(Exception):
    """The trial is below the median of the earlier ones at this point."""


class OutOfTime(Exception):
    """The time is over; what was trained is on disk."""


class Interrupts:
    """Ctrl-C raises KeyboardInterrupt as ever; one that was lost on its way is raised again at the next check.

    Python drops an exception that a signal raises inside a destructor, and between trials many of those run.
    """

    def __init__(self) -> None:
        self.seen = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.seen = True
            before(number, frame)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Deadline:
    """``minutes`` from now (None: never), or an interrupt."""

    minutes: float | None
    started: float = field(default_factory=time.monotonic)
    interrupts: Interrupts = field(default_factory=Interrupts)

    @property
    def passed(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.started >= 60 * self.minutes

    def check(self) -> None:
        """Raises OutOfTime, KeyboardInterrupt."""
        if self.interrupts.seen:
            raise KeyboardInterrupt
        if self.passed:
            raise OutOfTime

    def watched(self, progress: Progress) -> Progress:
        """The same, and the clock is looked at after every step but the last. May raise as :meth:`check`."""

        def tell(stage: str, done: int, total: int, note: str = "") -> None:
            progress(stage, done, total, note)
            if done < total:
                self.check()

        return tell


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
