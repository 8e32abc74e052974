"""How a long job tells how far it is, without knowing who listens (a terminal, a notebook, nobody)."""

from __future__ import annotations

from typing import Protocol

import lightning as L
from lightning.pytorch.callbacks import Callback


class Progress(Protocol):
    """Called with the stage's name, steps done, steps in all and a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tells nobody."""


class TrainingProgress(Callback):
    """Lightning's steps as progress; early stopping may end it before the total."""

    def __init__(self, stage: str, progress: Progress) -> None:
        self.stage, self.progress = stage, progress

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
        history = getattr(module, "history", [])
        note = f"epoch {trainer.current_epoch + 1}"
        if history:
            note += f", {getattr(module, 'figure_name', 'monitored')} {history[-1]['smoothed']:.3f}"
        self.progress(self.stage, trainer.global_step, total, note)
