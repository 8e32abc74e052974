"""Multiple-instance learning: a scan as a bag of instances (slices or tiles) with one label, and their pooling.

An instance that shows nothing of the patient is zero in every map, and is left out of the pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones.encoder import Box, Encoder
from med_transfer.backbones.instance_choice import InstancePooling

TOP_K = 3  # largest values of each feature
_CELL = 4  # voxels per axis of a cell whose mean is compared; averages out noise but not a small vessel
_DARK = 0.03  # cells within this share of a scan's range above its darkest cell count as dark


class GatedAttention(nn.Module):
    """Gated attention a_k = softmax_k(w . (tanh(V h_k) * sigmoid(U h_k))), Ilse et al. 2018, arXiv:1802.04712, eq. 9.

    w starts at zero, so that before training, and where frozen, all instances have equal weight.

    Args:
        channels: number of features h_k of an instance.
        hidden: number of rows of V and U.
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(channels, hidden), nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, features: Tensor, shown: Tensor | None = None) -> Tensor:
        """Return attention weights [batch, instance], each row summing to 1.

        Args:
            features: [batch, instance, channel].
            shown: boolean [batch, instance], the instances that count; the others get 0.
        """
        scores = self.score(torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))).squeeze(-1)
        return (scores if shown is None else scores.masked_fill(~shown, -torch.inf)).softmax(dim=-1)


class InstanceEncoder(Encoder):
    """An encoder that processes a scan as instances and pools their features.

    Attributes:
        attention: computes instance weights from the deepest features; None for a pooling without learned weights.
    """

    new_parts = ("attention",)
    attention: GatedAttention | None

    @property
    def has_learned_attention(self) -> bool:
        """Whether there is an attention that is no longer uniform."""
        return self.attention is not None and bool(self.attention.score.weight.any())

    def instance_features(self, feature_map: Tensor) -> Tensor:
        """Return the instances' features [batch, instance, channel] in one of the maps."""
        raise NotImplementedError

    def pool_by(self, pooling: InstancePooling) -> None:
        """Set how instances are pooled; an attention is reinitialised."""
        self.instance_pooling = pooling
        self.attention = GatedAttention(self.stage_channels[-1]) if pooling == "attention" else None

    def with_attention(self, stages: list[nn.Module]) -> list[nn.Module]:
        """Return the stages with the attention added to the front of the last one."""
        return stages if self.attention is None else [*stages[:-1], nn.ModuleList([self.attention, stages[-1]])]

    def pooled_channels(self, stages: Sequence[int]) -> list[int]:
        """Return the pooled channels of each stage: those of its map, or twice as many for ``mean_max``."""
        n = 2 if self.instance_pooling == "mean_max" else 1
        return [n * channels for channels in super().pooled_channels(stages)]

    def instance_weights(self, maps: Sequence[Tensor]) -> Tensor:
        """Return instance weights [batch, instance], each row summing to 1: by attention, or uniform."""
        return self._weights(self.instance_features(maps[-1]))

    def pool(self, maps: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Return features [batch, channel] of the chosen stages, pooled over instances and concatenated."""
        of_stages = [self.instance_features(maps[stage]) for stage in stages]
        return self.pool_instances(of_stages, self.instance_features(maps[-1]))

    def pool_instances(self, of_stages: Sequence[Tensor], deepest: Tensor) -> Tensor:
        """Like :meth:`pool`, given features [batch, instance, channel] of the chosen stages and of the deepest."""
        if pooling := _WITHOUT_WEIGHTS.get(self.instance_pooling or ""):
            shown = is_shown(deepest)[..., None]
            return torch.cat([pooling(features, shown) for features in of_stages], dim=1)
        weights = self._weights(deepest)
        return torch.cat([torch.einsum("bnc,bn->bc", features, weights) for features in of_stages], dim=1)

    def _weights(self, deepest: Tensor) -> Tensor:
        shown = is_shown(deepest)
        return shown / shown.sum(dim=1, keepdim=True) if self.attention is None else self.attention(deepest, shown)


def is_shown(features: Tensor) -> Tensor:
    """Return which instances count, boolean [batch, instance]: the non-zero ones, or all if a scan has none."""
    something = (features != 0).any(dim=-1)
    return something | ~something.any(dim=1, keepdim=True)


def _maximum(features: Tensor, shown: Tensor) -> Tensor:
    return features.masked_fill(~shown, -torch.inf).amax(dim=1)


def _mean_and_maximum(features: Tensor, shown: Tensor) -> Tensor:
    return torch.cat([(features * shown).sum(dim=1) / shown.sum(dim=1), _maximum(features, shown)], dim=1)


def _log_mean_exp(features: Tensor, shown: Tensor) -> Tensor:
    """Smooth maximum, the log of the mean of e^h (Pinheiro & Collobert 2015, CVPR, equation 6, with r = 1)."""
    return features.masked_fill(~shown, -torch.inf).logsumexp(dim=1) - shown.sum(dim=1).log()


def _top_k(features: Tensor, shown: Tensor) -> Tensor:
    k = min(TOP_K, features.shape[1])
    largest = features.masked_fill(~shown, -torch.inf).topk(k, dim=1).values
    return largest.masked_fill(largest == -torch.inf, 0).sum(dim=1) / shown.sum(dim=1).clamp(max=k)


_WITHOUT_WEIGHTS = {"max": _maximum, "mean_max": _mean_and_maximum, "log_mean_exp": _log_mean_exp, "top_k": _top_k}


def occupied(x: Tensor, boxes: Sequence[Box]) -> list[int]:
    """Return the boxes that contain more than background, as indices ``scan * len(boxes) + box``.

    Background is what is as dark as a scan's darkest cell, compared by cell means in each channel separately. All boxes
    of an entirely dark scan are returned, and all boxes if there are no values (on the meta device, in an export).

    Args:
        x: [batch, channel, depth, height, width].
        boxes: boxes of one size.
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
    """Return [n, ...] with ``values`` [place, ...] at the given places and zeros elsewhere."""
    return values.new_zeros(n, *values.shape[1:]).index_copy(0, torch.tensor(places, device=values.device), values)
