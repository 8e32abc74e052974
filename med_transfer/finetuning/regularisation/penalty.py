"""The interface of a penalty: a function of one training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from med_transfer.model.classifier import Classifier


@dataclass(frozen=True)
class Step:
    """One training batch and its activations.

    Attributes:
        classifier: the network in its present state.
        images: [batch, channel, depth, height, width].
        maps: the encoder's feature maps, each [batch, channel, *space].
        features: the head's input, [batch, feature].
    """

    classifier: Classifier
    images: Tensor
    maps: Sequence[Tensor]
    features: Tensor


Penalty = Callable[[Step], Tensor]
"""A scalar, strength included, that is added to the loss."""
