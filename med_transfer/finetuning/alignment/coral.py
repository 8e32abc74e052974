"""Deep CORAL: the covariances of the features, and nothing else, are made equal."""

from __future__ import annotations

import torch
from torch import Tensor

from med_transfer.finetuning.alignment.alignment import Alignment


class DeepCoral(Alignment):
    """``weight`` times :func:`coral_loss`.

    The division by the squared number of features makes it small: weights of 100 and more are usual for a few hundred.
    Source: Sun & Saenko 2016, ECCV Workshops, arXiv:1607.01719.
    """

    def forward(self, labelled: Tensor, unlabelled: Tensor, progress: float) -> Tensor:
        """The weighted loss of two batches of features [scan, feature]."""
        return self.weight * coral_loss(labelled, unlabelled)


def coral_loss(first: Tensor, second: Tensor) -> Tensor:
    """``|C_first - C_second|_F^2 / (4 d^2)`` of features [scan, d]; blind to a difference in means alone.

    In single precision whatever the training's.
    """
    with torch.autocast(first.device.type, enabled=False):
        difference = _covariance(first.float()) - _covariance(second.float())
        return difference.square().sum() / (4 * first.shape[1] ** 2)


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)
