"""The loss of a classification by soft targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits: Tensor, targets: Tensor, *, multilabel: bool, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy against soft targets [batch, class]; binary cross-entropy for each finding when multi-label."""
    weights = None if weights is None else weights.to(logits.dtype)
    if multilabel:
        targets = targets * (1 - smoothing) + 0.5 * smoothing
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
