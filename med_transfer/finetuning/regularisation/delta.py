"""DELTA: feature maps are kept near the source's, while the weights are free to change."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.finetuning.regularisation.penalty import Step


class Delta:
    """``strength / 2`` times the sum over stages of the channels' mean squared differences from the source's maps.

    A stage's term is the mean over the batch of ``sum_c a_c * mean_v (map - source map)^2``. The attention ``a_c`` of
    the channels sums to one: it is uniform, or given by :func:`channel_attention`. The means over voxels and channels
    give a strength the same meaning for every stage and input size; the paper's sums do not.
    Every step costs a second forward pass, through the source.

    Args:
        source: the encoder at the start; a frozen copy in evaluation mode is kept, outside the checkpoint.
        attention: stage (index of its map) to [channel]; stages without an entry get uniform attention.

    Source: Li et al. 2019, ICLR, arXiv:1901.09229.
    """

    def __init__(self, source: Encoder, strength: float, attention: Mapping[int, Tensor] | None = None) -> None:
        self.strength, self.attention = strength, dict(attention or {})
        self.source = copy.deepcopy(source).eval().requires_grad_(False)

    def __call__(self, step: Step) -> Tensor:
        """The penalty of one batch."""
        with torch.no_grad():
            before = self.source.to(step.images.device)(step.images)
        pairs = zip(step.maps, before, strict=True)
        terms = [self._stage(number, new.float(), old.float()) for number, (new, old) in enumerate(pairs)]
        return self.strength / 2 * torch.stack(terms).sum()

    def _stage(self, number: int, new: Tensor, old: Tensor) -> Tensor:
        by_channel = (new - old).square().flatten(2).mean(2)
        attention = self.attention.get(number)
        return by_channel.mean() if attention is None else (by_channel @ attention.to(by_channel)).mean()


def channel_attention(features: Tensor, weight: Tensor, bias: Tensor, truth: Tensor, *, multilabel: bool) -> Tensor:
    """Importance of each feature, [feature]: softmax of the increase in the probe's loss when the feature is removed.

    The head is linear in the pooled features, so removing one is exact and needs no forward pass.

    Args:
        features: of the source on the training scans, [scan, feature].
        weight, bias: of the linear probe, [class, feature] and [class].
        truth: [scan, class], 0 or 1.
        multilabel: whether a scan can have several findings.
    """
    logits, target = features @ weight.T + bias, truth.to(features)
    loss = F.binary_cross_entropy_with_logits if multilabel else F.cross_entropy
    without = [loss(logits - features[:, [j]] * weight[:, j], target) for j in range(features.shape[1])]
    return (torch.stack(without) - loss(logits, target)).softmax(0)
