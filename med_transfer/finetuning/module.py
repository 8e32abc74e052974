"""The training step: Lightning's view of a classifier."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from med_transfer.backbones import channels_last
from med_transfer.classifier import Classifier
from med_transfer.evaluation.auc import weighted_macro_auc
from med_transfer.evaluation.rates import weighted_balanced_accuracy
from med_transfer.finetuning.augmentation import mixup
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.freezing import keep_norm_statistics
from med_transfer.finetuning.optimisation import optimiser
from med_transfer.labels import Labels
from med_transfer.operating_point import OperatingPoint

log = logging.getLogger(__name__)

LOWER_IS_BETTER = {"loss"}


class FinetuningModule(L.LightningModule):
    """Loss, mixup, frozen statistics and the monitored validation figure.

    A batch is ``(images [batch, channel, depth, height, width], truth [batch, class] in {0, 1})``. After each epoch
    ``history`` gets a row with epoch, training loss, validation loss, the figure and its smoothed value.
    """

    class_weights: Tensor

    def __init__(
        self, classifier: Classifier, config: FinetuneConfig, *, labels: Labels, class_weights: Tensor,
        steps_per_epoch: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        # a fifth faster than the default layout on a CPU: benchmarks/training_step.py
        self.classifier = channels_last(classifier)
        self.config = config
        self.labels, self.multilabel = labels, labels.multilabel
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.steps_per_epoch = steps_per_epoch
        self.random = np.random.default_rng(seed)
        self.history: list[dict[str, float]] = []
        self._training_losses: list[Tensor] = []
        self._validation: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images.contiguous(memory_format=torch.channels_last_3d))

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy against soft targets [batch, class]; binary cross-entropy for each finding when multi-label."""
        weights = self.class_weights.to(logits.dtype)
        if self.multilabel:
            targets = targets * (1 - smoothing) + 0.5 * smoothing
            return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
        return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)

    def on_train_epoch_start(self) -> None:
        if self.config.training.freeze_norm_statistics:
            keep_norm_statistics(self.classifier.encoder)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, targets = mixup(batch[0], batch[1].float(), self.config.augmentation.mixup, self.random)
        loss = self.loss(self(images).float(), targets, self.config.training.label_smoothing)
        self._training_losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._validation.append((self(batch[0]).float().cpu(), batch[1].cpu()))

    def on_validation_epoch_end(self) -> None:
        logits, truth = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        self._validation.clear()
        losses, self._training_losses = self._training_losses, []
        row = {
            "epoch": float(self.current_epoch),
            "train_loss": float(torch.stack(losses).mean()) if losses else float("nan"),
            "val_loss": float(self.loss(logits.to(self.device), truth.float().to(self.device))),
        }
        row["figure"] = self._figure(logits, truth, row["val_loss"])
        row["smoothed"] = self._smooth(row["figure"])
        self.history.append(row)
        log.info(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        self.log("monitored", row["smoothed"], prog_bar=True)

    def _figure(self, logits: Tensor, truth: Tensor, val_loss: float) -> float:
        monitor = self.config.training.monitor
        if monitor == "loss":
            return val_loss
        known, once = truth.numpy().astype(bool), np.ones((1, len(truth)))
        scores = (logits.sigmoid() if self.multilabel else logits.softmax(1)).double().numpy()
        if monitor == "macro_auc":
            return float(weighted_macro_auc(known, scores, once)[0])
        called = OperatingPoint.default(self.labels).calls(scores, self.labels)
        return float(weighted_balanced_accuracy(known, called, once, multilabel=self.multilabel)[0])

    def _smooth(self, figure: float) -> float:
        past = self.config.training.smoothing
        return past * self.history[-1]["smoothed"] + (1 - past) * figure if self.history else figure

    def is_better(self, figure: float, than: float) -> bool:
        """Whether a value of the monitored figure is an improvement."""
        lower = self.config.training.monitor in LOWER_IS_BETTER
        return not figure >= than if lower else not figure <= than

    def configure_optimizers(self) -> Any:
        adamw, schedule = optimiser(self.classifier, self.config.training, self.steps_per_epoch)
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
