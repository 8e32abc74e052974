"""What every alignment answers: a scalar for one batch of labelled and one of unlabelled scans."""

from __future__ import annotations

from torch import Tensor, nn


class Alignment(nn.Module):
    """Added to the loss, weight included. Its own parameters, if any, learn with the network and are then left behind.

    Args:
        weight: of the alignment against the loss on labels.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, labelled: Tensor, unlabelled: Tensor, progress: float) -> Tensor:
        """A scalar.

        Args:
            labelled, unlabelled: what the head reads, [scan, feature]; at least two scans each.
            progress: share of the training's steps that are done, in [0, 1].
        """
        raise NotImplementedError
