"""Domain-adversarial training: a classifier tells labelled from unlabelled scans, the network learns to prevent it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.finetuning.alignment.alignment import Alignment

INNER = 64  # units of the domain classifier's hidden layer


class DomainAdversary(Alignment):
    """Cross-entropy of a small domain classifier, whose gradient is reversed before it reaches the features.

    The reversed gradient is scaled by ``weight`` and by ``2 / (1 + exp(-10 progress)) - 1``, which rises from 0 to 1,
    so that the network does not follow a domain classifier that is still untrained. The domain classifier itself learns
    at full strength throughout. Both sides have equal weight, whatever their numbers of scans.

    Source: Ganin et al. 2016, JMLR 17:59, arXiv:1505.07818.
    """

    def __init__(self, weight: float, n_features: int) -> None:
        super().__init__(weight)
        self.domain = nn.Sequential(nn.Linear(n_features, INNER), nn.ReLU(), nn.Linear(INNER, 1))

    def forward(self, labelled: Tensor, unlabelled: Tensor, progress: float) -> Tensor:
        """The domain classifier's loss on two batches of features [scan, feature]; see :meth:`Alignment.forward`.

        Only the gradient with respect to the features is weighted, not the value.
        """
        strength = self.weight * (2 / (1 + math.exp(-10 * progress)) - 1)
        with torch.autocast(labelled.device.type, enabled=False):
            of_labelled, of_unlabelled = (
                self.domain(reverse_gradient(side.float(), strength)).squeeze(1) for side in (labelled, unlabelled)
            )
            return (F.softplus(-of_labelled).mean() + F.softplus(of_unlabelled).mean()) / 2


def reverse_gradient(features: Tensor, strength: float) -> Tensor:
    """Return the features unchanged; the backward pass multiplies their gradient by ``-strength``."""
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
