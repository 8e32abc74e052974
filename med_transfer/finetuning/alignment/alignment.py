"""The interface of an alignment: a scalar loss of one batch of labelled and one of unlabelled scans."""

from __future__ import annotations

from torch import Tensor, nn


class Alignment(nn.Module):
    """A term added to the loss. Its own parameters, if any, are trained with the network and then discarded.

    Args:
        weight: of the alignment relative to the loss on labels.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, labelled: Tensor, unlabelled: Tensor, progress: float) -> Tensor:
        """The loss, a scalar, with the weight applied.

        Args:
            labelled, unlabelled: the head's input features, [scan, feature]; at least two scans each.
            progress: fraction of the training steps that are done, in [0, 1].
        """
        raise NotImplementedError
