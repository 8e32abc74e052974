"""What a penalty is handed at every training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from med_transfer.model.classifier import Classifier


@dataclass(frozen=True)
class Step:
    """One batch on its way through the network.

    Attributes:
        classifier: as it is now.
        images: [batch, channel, depth, height, width].
        maps: the encoder's feature maps, each [batch, channel, *space].
        features: what the head reads, [batch, feature].
    """

    classifier: Classifier
    images: Tensor
    maps: Sequence[Tensor]
    features: Tensor


Penalty = Callable[[Step], Tensor]
"""A scalar, strength included, that is added to the loss."""
