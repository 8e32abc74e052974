"""The best weights, kept in memory, and the state on disk, saved regularly so that an interruption costs little."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from med_transfer.atomic import atomic_path
from med_transfer.cohorts.left_behind import left_behind, require_whole
from med_transfer.finetuning.lightning_module import FinetuningModule


class BestWeights(Callback):
    """Keep the classifier's weights of the epoch with the best smoothed figure. Part of the saved state.

    Args:
        first_epoch: earlier epochs are not considered.
    """

    def __init__(self, first_epoch: int) -> None:
        self.first_epoch = first_epoch
        self.weights: dict[str, Tensor] = {}
        self.epoch = -1
        self.figure = float("nan")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights if they are better than those of all earlier epochs."""
        if not isinstance(pl_module, FinetuningModule):
            return
        row = pl_module.history[-1]
        if row["epoch"] < self.first_epoch:
            return
        if not self.weights or pl_module.is_better(row["smoothed"], self.figure):
            self.epoch, self.figure = int(row["epoch"]), row["smoothed"]
            self.weights = {name: t.detach().cpu().clone() for name, t in pl_module.classifier.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the best weights, their epoch and their figure."""
        return {"weights": self.weights, "epoch": self.epoch, "figure": self.figure}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.weights, self.epoch, self.figure = state_dict["weights"], state_dict["epoch"], state_dict["figure"]


class ResumePoint(Callback):
    """Write the state at the end of an epoch if the last one written is older than ``seconds``.

    Not after the epoch in which early stopping ends the training: Lightning would resume it with one more epoch.
    """

    def __init__(self, path: Path, seconds: float = 60.0) -> None:
        self.path, self.seconds = path, seconds
        self._written = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the state if the last write is long enough ago. Raises OutputError."""
        # Not earlier: from a state saved within an epoch, Lightning would end that epoch again, without its figures.
        if trainer.should_stop or time.monotonic() - self._written < self.seconds:
            return
        with atomic_path(self.path) as temporary:
            trainer.save_checkpoint(temporary)
        self._written = time.monotonic()


class ResumeFile(TorchCheckpointIO):
    """Lightning's reader of the state on disk, with a check that the file is whole."""

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Load the state. Raises UsageError if it is damaged."""
        with left_behind(Path(path)):
            require_whole(Path(path))
            return super().load_checkpoint(path, *args, **options)
