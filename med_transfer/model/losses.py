"""The classification loss with soft targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits: Tensor, targets: Tensor, *, multilabel: bool, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of logits with soft targets, both [batch, class]; binary cross-entropy when multi-label.

    Args:
        weights: [class]; when multi-label, of the presence of each finding.
        smoothing: share of the target that is spread over all classes, or moved towards 0.5 when multi-label.
    """
    weights = None if weights is None else weights.to(logits.dtype)
    if multilabel:
        targets = targets * (1 - smoothing) + 0.5 * smoothing
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    return F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
