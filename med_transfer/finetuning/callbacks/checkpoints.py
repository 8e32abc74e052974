"""The best weights so far, kept in memory, and now and then the whole state on disk, so that a kill costs little."""

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
    """Keeps the classifier's weights of the epoch with the best smoothed figure. Saved and resumed with the state.

    Args:
        first_epoch: earlier epochs are not considered.
    """

    def __init__(self, first_epoch: int = 0) -> None:
        self.first_epoch = first_epoch
        self.weights: dict[str, Tensor] = {}
        self.epoch = -1
        self.figure = float("nan")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the weights if no epoch before was better."""
        if not isinstance(pl_module, FinetuningModule):
            return
        row = pl_module.history[-1]
        if row["epoch"] < self.first_epoch:
            return
        if not self.weights or pl_module.is_better(row["smoothed"], self.figure):
            self.epoch, self.figure = int(row["epoch"]), row["smoothed"]
            self.weights = {name: t.detach().cpu().clone() for name, t in pl_module.classifier.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the best weights and whose they are."""
        return {"weights": self.weights, "epoch": self.epoch, "figure": self.figure}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of a checkpoint, as :meth:`state_dict` gave it."""
        self.weights, self.epoch, self.figure = state_dict["weights"], state_dict["epoch"], state_dict["figure"]


class ResumePoint(Callback):
    """Writes the state at the end of an epoch when the last one is older than ``seconds``.

    Not of an epoch that early stopping ends: Lightning would go on from it by one more.
    """

    def __init__(self, path: Path, seconds: float = 60.0) -> None:
        self.path, self.seconds = path, seconds
        self._written = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the state if the last time is long enough ago. Raises OutputError."""
        # Not earlier: a state from within the epoch makes Lightning end that epoch again, without its figures.
        if trainer.should_stop or time.monotonic() - self._written < self.seconds:
            return
        with atomic_path(self.path) as temporary:
            trainer.save_checkpoint(temporary)
        self._written = time.monotonic()


class ResumeFile(TorchCheckpointIO):
    """The state on disk, as Lightning reads it."""

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        """Raises UsageError: it is damaged."""
        with left_behind(Path(path)):
            require_whole(Path(path))
            return super().load_checkpoint(path, *args, **options)
