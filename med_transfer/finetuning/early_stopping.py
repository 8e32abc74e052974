"""The validation figure that early stopping and the choice of the best weights are based on."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.rates import weighted_balanced_accuracy
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

LOWER_IS_BETTER = {"loss"}
FIGURES = {  # in words
    "balanced_sensitivity": Sentence("balanced accuracy"),
    "macro_auc": Sentence("macro AUC"),
    "loss": Sentence("loss"),
}


def monitored_figure(monitor: str, logits: Tensor, truth: Tensor, val_loss: float, labels: Labels) -> float:
    """``balanced_sensitivity``, ``macro_auc`` or ``loss`` of logits and truth [scan, class]; NaN if undefined."""
    if monitor == "loss":
        return val_loss
    present, once = truth.numpy().astype(bool), np.ones((1, len(truth)))
    scores = (logits.sigmoid() if labels.multilabel else logits.softmax(1)).double().numpy()
    if monitor == "macro_auc":
        return float(weighted_macro_auc(present, scores, once)[0])
    predicted = OperatingPoint.default(labels).predictions(scores, labels)
    return float(weighted_balanced_accuracy(present, predicted, once, multilabel=labels.multilabel)[0])
