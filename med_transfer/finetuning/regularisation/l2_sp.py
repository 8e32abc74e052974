"""L2-SP: weights are held to the source's and not to zero."""

from __future__ import annotations

import torch
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.finetuning.regularisation.penalty import Step


class L2SP:
    """``strength / 2 * |w - w_source|^2`` of the encoder plus ``head_strength / 2 * |w|^2`` of the head.

    It takes the place of weight decay, which would pull away from the source.
    Source: Li et al. 2018, ICML, arXiv:1802.01483, eq. 5.
    """

    def __init__(self, source: Encoder, strength: float = 0.1, head_strength: float = 0.01) -> None:
        self.strength, self.head_strength = strength, head_strength
        self.start = {name: weight.detach().clone() for name, weight in source.named_parameters()}

    def __call__(self, step: Step) -> Tensor:
        """The penalty of one batch."""
        weights = dict(step.classifier.encoder.named_parameters())
        head = step.classifier.head
        self.start = {name: start.to(head.weight.device) for name, start in self.start.items()}
        moved = torch.stack([(weights[name] - start).square().sum() for name, start in self.start.items()]).sum()
        return self.strength / 2 * moved + self.head_strength / 2 * (
            head.weight.square().sum() + head.bias.square().sum()
        )
