"""A 2D network on every slice, whose features are pooled over slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from med_transfer.backbones.encoder import Box, Features
from med_transfer.backbones.networks.instances import GatedAttention, InstanceEncoder, is_shown, occupied, spread
from med_transfer.backbones.networks.lesion_answers import KINDS, LesionAnswers
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import PlanarEncoder, PlanarNetwork

# Of the slices that pass the network at once. On a CPU their maps then stay in its caches: 2.3 times as fast as all at
# once for 64 slices of 192 x 192 (EfficientNet-Lite0, one core).
_CHUNK_PIXELS, _CHUNK_PIXELS_GPU = 2**17, 2**21


class SliceEncoder(InstanceEncoder, PlanarEncoder):
    """Maps [batch, channel, depth, height, width] whose slices are the 2D network's maps of the scan's slices.

    The depth is that of the input in every stage. The deepest maps decide how much each slice counts, and the
    features of all chosen stages are weighted so. Once it is told how to pool, slices that show nothing are left out;
    until then every slice counts, as in networks from before there was a choice.

    Attributes:
        answers: makes one more map, of one voxel a slice: what the network answers that learned painted lesions. None:
            there is no such map.
    """

    answers: LesionAnswers | None

    def __init__(self, planar: PlanarNetwork, photograph: AsPhotograph) -> None:
        super().__init__(planar, photograph)
        self.attention = GatedAttention(self.stage_channels[-1])
        self.answers = None
        self._elsewhere: Features | None = None

    def stages(self) -> list[nn.Module]:
        """As every encoder's; the last one holds the attention too, before what makes its map."""
        stem, *stages = self.with_attention(super().stages())
        return [stem, *stages] if self.answers is None else [stem, *stages, self.answers]

    def answer(self) -> LesionAnswers:
        """Give it a last stage with its answers, for which it is told the heads."""
        self.answers = LesionAnswers(self.stage_channels)
        self.stage_channels = (*self.stage_channels, len(KINDS))
        return self.answers

    def core(self, stages: Sequence[int]) -> nn.Module:
        """Photographs of slices to their features of all stages, joined."""
        return _PooledSlices(self)

    def with_core(self, core: Features) -> SliceEncoder:
        """Itself; which slices there are, and how they pool, stays here."""
        self.net, self._elsewhere = nn.Identity(), core
        return self

    def net_maps(self, x: Tensor) -> list[Tensor]:
        """The map of each stage; of one voxel, the features, where they are computed elsewhere.

        Channels lie last on a CPU: a training step then takes two thirds of the time or less, a forward pass
        four fifths (docs/benchmarks.md).
        """
        if self._elsewhere is None:
            return super().net_maps(x.contiguous(memory_format=torch.channels_last))
        return list(self._elsewhere(x)[..., None, None].split(self.stage_channels, dim=1))

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """Every slice."""
        return [(slice(k, k + 1), slice(0, shape[1]), slice(0, shape[2])) for k in range(shape[0])]

    def taken(self, image: Tensor) -> list[Box]:
        """The slices that are computed: all, until it is told how to pool."""
        boxes = super().taken(image)
        places = range(len(boxes)) if self.instance_pooling is None else occupied(image[None], boxes)
        return [boxes[place] for place in places]

    def instance_features(self, feature_map: Tensor) -> Tensor:
        """Means over height and width."""
        return feature_map.mean(dim=(3, 4)).transpose(1, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Each slice's 2D maps, put back on top of each other along depth; those of an empty slice are zero."""
        maps = self._slice_maps(x)
        if self.answers is None or self._elsewhere is not None:
            return maps
        return [*maps, self._of_shown(self.answers, maps).transpose(1, 2)[..., None, None]]

    def answer_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What its answers are made of, [batch, slice, part, kind], and each slice's share of a scan, [batch, slice].

        Args:
            x: [batch, channel, depth, height, width], of an encoder that answers.
        """
        assert self.answers is not None
        parts = self._of_shown(self.answers.parts, maps := self._slice_maps(x))
        return parts, self._weights(self.instance_features(maps[-1]))

    def _slice_maps(self, x: Tensor) -> list[Tensor]:
        _, _, depth, height, width = x.shape
        slices = self.photograph(x).transpose(1, 2)
        n, flat = slices.shape[:2], slices.flatten(0, 1)
        if self.instance_pooling is None:
            maps = self._in_chunks(flat)
        else:
            places = occupied(x, self.cuts((depth, height, width)))
            maps = [spread(m, places, len(flat)) for m in self._in_chunks(flat[places])]
        return [m.unflatten(0, n).transpose(1, 2) for m in maps]

    def _of_shown(self, asked: Callable[[Sequence[Tensor]], Tensor], maps: Sequence[Tensor]) -> Tensor:
        """[batch, slice, ...] of what is said of the slices' maps; zero of an empty one.

        It is asked of the maps as they are given, so that a heat map can follow an answer back to its place.
        """
        shown = is_shown(self.instance_features(maps[-1]))
        said = asked([m.transpose(1, 2).flatten(0, 1) for m in maps]).unflatten(0, shown.shape)
        return said * shown.reshape(*shown.shape, *[1] * (said.ndim - 2))

    def _in_chunks(self, slices: Tensor) -> list[Tensor]:
        """The maps of some slices, a few at a time but in training, where all of a batch have common statistics.

        For a gradient what leads to the maps is computed again, and not kept: that of a scan takes gigabytes.
        """
        if (torch.is_grad_enabled() and self.training) or slices.is_meta:
            return self.net_maps(slices)
        again = partial(checkpoint, self.net_maps, use_reentrant=False)
        maps_of = again if torch.is_grad_enabled() else self.net_maps
        n = max(1, (_CHUNK_PIXELS_GPU if slices.is_cuda else _CHUNK_PIXELS) // slices[0, 0].numel())
        return [torch.cat(maps) for maps in zip(*map(maps_of, slices.split(n)), strict=True)]


class _PooledSlices(nn.Module):
    """[slice, channel] of photographs of slices."""

    def __init__(self, encoder: SliceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        maps, answers = self.encoder.net_maps(x), self.encoder.answers
        said = [] if answers is None else [answers(maps)]
        return torch.cat([*(feature_map.mean(dim=(2, 3)) for feature_map in maps), *said], dim=1)
