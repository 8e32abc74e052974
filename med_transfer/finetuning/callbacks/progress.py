"""Reports Lightning's training steps as progress."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from med_transfer.finetuning.early_stopping import FIGURES
from med_transfer.finetuning.lightning_module import FinetuningModule
from med_transfer.progress import Progress


class TrainingProgress(Callback):
    """Report each training step; early stopping may end the training before the total is reached."""

    def __init__(self, stage: str, progress: Progress) -> None:
        self.stage, self.progress = stage, progress

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Report one more step."""
        total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
        note = f"epoch {trainer.current_epoch + 1}"
        if isinstance(pl_module, FinetuningModule) and pl_module.history:
            note += f", {FIGURES[pl_module.config.training.monitor]} {pl_module.history[-1]['smoothed']:.3f}"
        self.progress(self.stage, trainer.global_step, total, note)
