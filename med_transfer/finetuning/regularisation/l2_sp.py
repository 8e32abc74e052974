"""L2-SP: weights are pulled towards the source's instead of towards zero."""

from __future__ import annotations

import torch
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.finetuning.regularisation.penalty import Step


class L2SP:
    """``strength / 2 * |w - w_source|^2`` of the source's weights plus ``head_strength / 2 * |w|^2`` of the others.

    The others are the head's and an attention's, which no source has. It replaces weight decay, which would pull the
    weights away from the source.
    Source: Li et al. 2018, ICML, arXiv:1802.01483, eq. 5.
    """

    def __init__(self, source: Encoder, strength: float, head_strength: float) -> None:
        self.strength, self.head_strength = strength, head_strength
        of_source = [(n, w) for n, w in source.named_parameters() if n.partition(".")[0] not in source.new_parts]
        self.start = {name: weight.detach().clone() for name, weight in of_source}

    def __call__(self, step: Step) -> Tensor:
        """The penalty of one batch."""
        weights, head = dict(step.classifier.encoder.named_parameters()), step.classifier.head
        self.start = {name: start.to(head.weight.device) for name, start in self.start.items()}
        moved = torch.stack([(weights.pop(name) - start).square().sum() for name, start in self.start.items()]).sum()
        new = torch.stack([weight.square().sum() for weight in (*head.parameters(), *weights.values())]).sum()
        return self.strength / 2 * moved + self.head_strength / 2 * new
