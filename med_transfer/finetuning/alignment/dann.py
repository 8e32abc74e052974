"""Domain-adversarial training: a classifier learns to tell the two sides apart, the network to leave it no chance."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.finetuning.alignment.alignment import Alignment

INNER = 64  # units of the domain classifier's inner layer


class DomainAdversary(Alignment):
    """Cross-entropy of a small domain classifier, its gradient reversed on the way into the features.

    The reversed gradient is scaled by ``weight`` and by ``2 / (1 + exp(-10 progress)) - 1``, which rises from 0 to 1,
    so that the network does not follow a domain classifier that knows nothing yet. The domain classifier itself learns
    at full strength all along. Both sides count the same, whatever their number of scans.

    Source: Ganin et al. 2016, JMLR 17:59, arXiv:1505.07818.
    """

    def __init__(self, weight: float, n_features: int) -> None:
        super().__init__(weight)
        self.domain = nn.Sequential(nn.Linear(n_features, INNER), nn.ReLU(), nn.Linear(INNER, 1))

    def forward(self, labelled: Tensor, unlabelled: Tensor, progress: float) -> Tensor:
        """The weighted loss of two batches of features [scan, feature], at a share ``progress`` of the training."""
        strength = self.weight * (2 / (1 + math.exp(-10 * progress)) - 1)
        with torch.autocast(labelled.device.type, enabled=False):
            of_labelled, of_unlabelled = (
                self.domain(reverse_gradient(side.float(), strength)).squeeze(1) for side in (labelled, unlabelled)
            )
            return (F.softplus(-of_labelled).mean() + F.softplus(of_unlabelled).mean()) / 2


def reverse_gradient(features: Tensor, strength: float) -> Tensor:
    """The features as they are; their gradient comes back times ``-strength``."""
    result: Any = _Reversal.apply(features, strength)
    return result


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None
