"""Batch spectral shrinkage: shrinks the directions in which a batch's features hardly vary."""

from __future__ import annotations

import torch
from torch import Tensor

from med_transfer.finetuning.regularisation.penalty import Step


class BatchSpectralShrinkage:
    """``strength`` times the sum of the ``k`` smallest squared singular values of the features [batch, feature].

    These directions transfer badly, and keeping them leads to negative transfer. No copy of the source is needed.
    Source: Chen et al. 2019, NeurIPS 32, "Catastrophic forgetting meets negative transfer", eq. 4.
    """

    def __init__(self, strength: float, k: int) -> None:
        self.strength, self.k = strength, k

    def __call__(self, step: Step) -> Tensor:
        """The penalty of one batch."""
        with torch.autocast(step.features.device.type, enabled=False):
            singular = torch.linalg.svdvals(step.features.float())
        return self.strength * singular[-self.k :].square().sum()
