"""The training step: Lightning's view of a classifier."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from med_transfer.backbones import channels_last
from med_transfer.errors import TrainingDiverged
from med_transfer.finetuning.alignment import Alignment
from med_transfer.finetuning.augmentation import mixup
from med_transfer.finetuning.batch_norm import keep_frozen_statistics
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.early_stopping import LOWER_IS_BETTER, monitored_figure
from med_transfer.finetuning.optimisation import optimiser
from med_transfer.finetuning.regularisation import Penalty, Step
from med_transfer.model.classifier import Classifier
from med_transfer.model.losses import classification_loss
from med_transfer.predictions.labels import Labels
from med_transfer.progress import only_in_log

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossTerms:
    """Class weights and additional terms of the loss.

    Attributes:
        class_weights: [class], weights of the loss on labels.
        penalties: added to the loss on labels.
        alignment: of the features of labelled and unlabelled images, also added.
    """

    class_weights: Tensor
    penalties: Sequence[Penalty] = ()
    alignment: Alignment | None = None


class FinetuningModule(L.LightningModule):
    """Loss with mixup, penalties and alignment, stages frozen by epoch, and the monitored validation figure.

    A batch is ``(images [batch, channel, depth, height, width], truth [batch, class] in {0, 1})``. With ``alignment``
    it has a third part, unlabelled images, which are mixed with each other as the labelled ones are and go through the
    network together with them. After each epoch a row is appended to ``history``: epoch, training loss, validation
    loss, the monitored figure and its smoothed value, and the alignment loss if there is one. The alignment's own
    weights are saved in the resume checkpoint, not in the classifier.
    """

    class_weights: Tensor

    def __init__(
        self,
        classifier: Classifier,
        config: FinetuneConfig,
        terms: LossTerms,
        *,
        labels: Labels,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        super().__init__()
        # a fifth faster than the default layout on a CPU: benchmarks/training_step.py
        self.classifier = channels_last(classifier)
        self.config = config
        self.labels, self.multilabel = labels, labels.multilabel
        self.register_buffer("class_weights", terms.class_weights, persistent=False)
        self.steps_per_epoch = steps_per_epoch
        self.penalties, self.alignment = tuple(terms.penalties), terms.alignment
        self.random = np.random.default_rng(seed)
        self.history: list[dict[str, float]] = []
        self._training_losses: list[Tensor] = []
        self._alignment_losses: list[Tensor] = []
        self._validation: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits [scan, class] of scans [scan, channel, depth, height, width]."""
        return self.classifier(images.contiguous(memory_format=torch.channels_last_3d))

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Class-weighted loss of logits and soft targets [batch, class]; see :func:`classification_loss`."""
        return classification_loss(
            logits, targets, multilabel=self.multilabel, weights=self.class_weights, smoothing=smoothing
        )

    def on_train_epoch_start(self) -> None:
        """Freeze and unfreeze what the strategy says for this epoch."""
        transfer = self.config.transfer
        transfer.strategy.set_learning(self.classifier, self.current_epoch)
        keep_frozen_statistics(self.classifier.encoder, everywhere=transfer.batch_norm != "train")

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """Loss of one batch, including penalties and alignment."""
        images, targets = mixup(batch[0], batch[1].float(), self.config.augmentation.mixup, self.random)
        seen = self._with_unlabelled(images, *batch[2:]).contiguous(memory_format=torch.channels_last_3d)
        all_maps = self.classifier.encoder(seen)
        features, unlabelled = self.classifier.pool(all_maps).tensor_split([len(images)])
        images, maps = seen[: len(images)], [m[: len(images)] for m in all_maps]
        logits = self.classifier.head(self.classifier.dropout(features))
        loss = self.loss(logits.float(), targets, self.config.training.label_smoothing)
        self._training_losses.append(loss.detach())
        step = Step(self.classifier, images, maps, features)
        return loss + sum(penalty(step) for penalty in self.penalties) + self._aligned(features, unlabelled)

    def _with_unlabelled(self, images: Tensor, unlabelled: Tensor | None = None) -> Tensor:
        if unlabelled is None:
            return images
        mixed, _ = mixup(
            unlabelled, unlabelled.new_zeros(len(unlabelled), 1), self.config.augmentation.mixup, self.random
        )
        return torch.cat([images, mixed])

    def _aligned(self, features: Tensor, unlabelled: Tensor) -> Tensor | float:
        """The alignment loss; 0 without alignment."""
        if self.alignment is None:
            return 0.0
        steps = self.config.training.epochs * self.steps_per_epoch
        loss = self.alignment(features, unlabelled, min(self.global_step / max(steps, 1), 1.0))
        self._alignment_losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Keep logits and truth: the figure is computed over all validation scans at the end of the epoch."""
        self._validation.append((self(batch[0]).float().cpu(), batch[1].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Append the epoch's row to the history, and log the smoothed figure for early stopping.

        Raises:
            TrainingDiverged: the network's output or the figure is not finite.
        """
        logits, truth = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        self._validation.clear()
        losses, self._training_losses = self._training_losses, []
        row = {
            "epoch": float(self.current_epoch),
            "train_loss": float(torch.stack(losses).mean()) if losses else float("nan"),
            "val_loss": float(self.loss(logits.to(self.device), truth.float().to(self.device))),
        }
        if self._alignment_losses:
            row["alignment"] = float(torch.stack(self._alignment_losses).mean())
            self._alignment_losses = []
        row["figure"] = monitored_figure(self.config.training.monitor, logits, truth, row["val_loss"], self.labels)
        self._require_finite(logits, row["figure"])
        row["smoothed"] = self._smooth(row["figure"])
        self.history.append(row)
        only_in_log(log, ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
        self.log("monitored", row["smoothed"], prog_bar=True)

    def _require_finite(self, logits: Tensor, figure: float) -> None:
        """Check the logits too: NaN logits have a most probable class, and so a figure that looks valid."""
        monitor = self.config.training.monitor
        broken = "" if math.isfinite(figure) else monitor
        broken = broken if logits.isfinite().all() else "the network's output on validation scans"
        if broken:
            raise diverged(f"epoch {self.current_epoch + 1}: {broken} is not finite")

    def _smooth(self, figure: float) -> float:
        past = self.config.training.smoothing
        return past * self.history[-1]["smoothed"] + (1 - past) * figure if self.history else figure

    def is_better(self, figure: float, than: float) -> bool:
        """Whether a value of the monitored figure is an improvement."""
        lower = self.config.training.monitor in LOWER_IS_BETTER
        return figure < than if lower else figure > than  # both are False for NaN

    def configure_optimizers(self) -> Any:
        """AdamW over all parameters that learn in any epoch, and its schedule by step."""
        training, transfer = self.config.training, self.config.transfer
        transfer.strategy.set_learning(self.classifier, training.epochs - 1)  # all that ever learns
        adamw, schedule = optimiser(
            self.classifier,
            training,
            transfer.strategy,
            self.steps_per_epoch,
            decay="l2_sp" not in transfer.regularise,
            extra_parameters=list(self.alignment.parameters()) if self.alignment else [],
        )
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history beside Lightning's own state."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history."""
        self.history = checkpoint["history"]


def diverged(found: str) -> TrainingDiverged:
    """The error of a training whose numbers are not finite; ``found`` says where."""
    return TrainingDiverged(
        found,
        where="training",
        expected="a training that converges",
        action="Lower transfer.strategy.learning_rate, or set training.precision=fp32, and choose another -o",
    )
