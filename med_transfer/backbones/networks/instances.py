"""A scan as many instances (slices, tiles) of which one label is known: which of them hold anything, how they pool.

The words are those of multiple-instance learning. An instance that shows nothing of the patient has zeros in every map,
and is left out of the pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones.encoder import Box, Encoder
from med_transfer.backbones.instance_choice import InstancePooling

TOP_K = 3  # of each feature, its largest values
_CELL = 4  # voxels along each axis whose mean is compared: noise is averaged out, a small vessel is not
_DARK = 0.03  # what lies within this share of a scan's range above its darkest cell is as dark


class GatedAttention(nn.Module):
    """a_k = softmax_k(w . (tanh(V h_k) * sigmoid(U h_k))), Ilse et al. 2018, arXiv:1802.04712, equation 9.

    w starts at zero: before any training, and where it is frozen, every instance counts the same.

    Args:
        channels: of an instance's features h_k.
        hidden: rows of V and U.
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(channels, hidden), nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, features: Tensor, shown: Tensor | None = None) -> Tensor:
        """Weights [batch, instance], each row summing to 1, of features [batch, instance, channel].

        Args:
            shown: which instances count, [batch, instance]; the others get 0.
        """
        scores = self.score(torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))).squeeze(-1)
        return (scores if shown is None else scores.masked_fill(~shown, -torch.inf)).softmax(dim=-1)


class InstanceEncoder(Encoder):
    """An encoder that sees a scan as instances, and pools their features as it is told.

    Attributes:
        attention: decides by the deepest features how much each instance counts; None where nothing is to be learned.
    """

    new_parts = ("attention",)
    attention: GatedAttention | None

    @property
    def has_learned_attention(self) -> bool:
        """Whether an attention counts some instances more than others."""
        return self.attention is not None and bool(self.attention.score.weight.any())

    def instance_features(self, feature_map: Tensor) -> Tensor:
        """[batch, instance, channel] of one of the maps."""
        raise NotImplementedError

    def pool_by(self, pooling: InstancePooling) -> None:
        """Choose how instances are pooled; an attention starts anew."""
        self.instance_pooling = pooling
        self.attention = GatedAttention(self.stage_channels[-1]) if pooling == "attention" else None

    def with_attention(self, stages: list[nn.Module]) -> list[nn.Module]:
        """The stages, of which the last one holds the attention too, before what makes its map."""
        return stages if self.attention is None else [*stages[:-1], nn.ModuleList([self.attention, stages[-1]])]

    def pooled_channels(self, stages: Sequence[int]) -> list[int]:
        """Twice those of the maps where mean and maximum are joined."""
        n = 2 if self.instance_pooling == "mean_max" else 1
        return [n * channels for channels in super().pooled_channels(stages)]

    def instance_weights(self, maps: Sequence[Tensor]) -> Tensor:
        """How much each instance counts, [batch, instance], each row summing to 1: by attention, or all the same."""
        return self._weights(self.instance_features(maps[-1]))

    def pool(self, maps: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Features [batch, channel] of the chosen stages, pooled over instances and joined."""
        of_stages = [self.instance_features(maps[stage]) for stage in stages]
        return self.pool_instances(of_stages, self.instance_features(maps[-1]))

    def pool_instances(self, of_stages: Sequence[Tensor], deepest: Tensor) -> Tensor:
        """As :meth:`pool`, of instances' features [batch, instance, channel] of the chosen stages and the deepest."""
        if pooling := _WITHOUT_WEIGHTS.get(self.instance_pooling or ""):
            shown = is_shown(deepest)[..., None]
            return torch.cat([pooling(features, shown) for features in of_stages], dim=1)
        weights = self._weights(deepest)
        return torch.cat([torch.einsum("bnc,bn->bc", features, weights) for features in of_stages], dim=1)

    def _weights(self, deepest: Tensor) -> Tensor:
        shown = is_shown(deepest)
        return shown / shown.sum(dim=1, keepdim=True) if self.attention is None else self.attention(deepest, shown)


def is_shown(features: Tensor) -> Tensor:
    """Which instances count, [batch, instance]: those that are not zero; all of a scan that has no such."""
    something = (features != 0).any(dim=-1)
    return something | ~something.any(dim=1, keepdim=True)


def _maximum(features: Tensor, shown: Tensor) -> Tensor:
    return features.masked_fill(~shown, -torch.inf).amax(dim=1)


def _mean_and_maximum(features: Tensor, shown: Tensor) -> Tensor:
    return torch.cat([(features * shown).sum(dim=1) / shown.sum(dim=1), _maximum(features, shown)], dim=1)


def _log_mean_exp(features: Tensor, shown: Tensor) -> Tensor:
    """A smooth maximum, ln of the mean of e^h (Pinheiro & Collobert 2015, CVPR, equation 6, with r = 1)."""
    return features.masked_fill(~shown, -torch.inf).logsumexp(dim=1) - shown.sum(dim=1).log()


def _top_k(features: Tensor, shown: Tensor) -> Tensor:
    k = min(TOP_K, features.shape[1])
    largest = features.masked_fill(~shown, -torch.inf).topk(k, dim=1).values
    return largest.masked_fill(largest == -torch.inf, 0).sum(dim=1) / shown.sum(dim=1).clamp(max=k)


_WITHOUT_WEIGHTS = {"max": _maximum, "mean_max": _mean_and_maximum, "log_mean_exp": _log_mean_exp, "top_k": _top_k}


def occupied(x: Tensor, boxes: Sequence[Box]) -> list[int]:
    """The boxes that show more than a scan's darkest, as ``scan * len(boxes) + box``; all of a scan that is dark alone.

    Means over cells are compared, in each channel for itself. Where there are no values (on the meta device, in an
    export) every box counts.

    Args:
        x: [batch, channel, depth, height, width].
        boxes: all of one size.
    """
    if x.is_meta or torch.compiler.is_compiling():
        return list(range(len(x) * len(boxes)))
    cell = [min(_CELL, side.stop - side.start) for side in boxes[0]]
    means = F.avg_pool3d(x.detach().float(), cell, ceil_mode=True)
    low, high = means.amin(dim=(2, 3, 4), keepdim=True), means.amax(dim=(2, 3, 4), keepdim=True)
    bright = (means > low + _DARK * (high - low)).any(dim=1)
    touched = [tuple(slice(s.start // n, -(-s.stop // n)) for s, n in zip(box, cell, strict=True)) for box in boxes]
    something = torch.stack([bright[:, *cells].flatten(1).any(dim=1) for cells in touched], dim=1)
    return (something | ~something.any(dim=1, keepdim=True)).flatten().nonzero().flatten().tolist()


def spread(values: Tensor, places: Sequence[int], n: int) -> Tensor:
    """[n, ...] with these values [place, ...] at the places and zeros elsewhere."""
    return values.new_zeros(n, *values.shape[1:]).index_copy(0, torch.tensor(places, device=values.device), values)
