"""The gap between training and validation, monitored because a few labels are soon memorised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.finetuning.early_stopping import monitored_figure
from med_transfer.metrics.records.metrics import GeneralisationGap
from med_transfer.model.losses import classification_loss
from med_transfer.predictions.labels import Labels

CrossValidatedPredictions = Sequence[
    tuple[NDArray[np.floating], NDArray[np.bool_]]
]  # logits and truth [scan, class] of each fold model


def measure_gap(
    training: CrossValidatedPredictions, validation: CrossValidatedPredictions, labels: Labels, limit: float
) -> GeneralisationGap:
    """Compare the fold models on their training and on their validation scans, both without augmentation."""
    training_sensitivity, training_loss = _pooled(training, labels)
    validation_sensitivity, validation_loss = _pooled(validation, labels)
    return GeneralisationGap(
        training_sensitivity=training_sensitivity,
        validation_sensitivity=validation_sensitivity,
        training_loss=training_loss,
        validation_loss=validation_loss,
        limit=limit,
    )


def _pooled(predictions: CrossValidatedPredictions, labels: Labels) -> tuple[float | None, float]:
    """Balanced accuracy (None if undefined) and loss of all fold models' scans together."""
    logits, truth = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*predictions, strict=True))
    loss = float(classification_loss(logits, truth.to(logits), multilabel=labels.multilabel))
    figure = monitored_figure("balanced_sensitivity", logits, truth, loss, labels)
    return (figure if np.isfinite(figure) else None), loss
