"""Deep CORAL: aligns the covariances of the features and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from med_transfer.finetuning.alignment.alignment import Alignment


class DeepCoral(Alignment):
    """``weight`` times :func:`coral_loss`.

    Dividing by the squared number of features makes it small: for a few hundred features, weights from 100 are usual.
    Source: Sun & Saenko 2016, ECCV Workshops, arXiv:1607.01719.
    """

    def forward(self, labelled: Tensor, unlabelled: Tensor, progress: float) -> Tensor:
        """The weighted loss of two batches of features [scan, feature]."""
        return self.weight * coral_loss(labelled, unlabelled)


def coral_loss(first: Tensor, second: Tensor) -> Tensor:
    """``|C_first - C_second|_F^2 / (4 d^2)`` of features [scan, d]; insensitive to a difference in means.

    Computed in single precision, whatever the precision of the training.
    """
    with torch.autocast(first.device.type, enabled=False):
        difference = _covariance(first.float()) - _covariance(second.float())
        return difference.square().sum() / (4 * first.shape[1] ** 2)


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)
