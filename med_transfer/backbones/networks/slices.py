"""A 2D network applied to every slice, with features pooled over slices."""

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

# Pixels of the slices processed at once. On a CPU the maps then stay in its caches, which is 2.3 times as fast as all
# at once for 64 slices of 192 x 192 (EfficientNet-Lite0, one core).
_CHUNK_PIXELS, _CHUNK_PIXELS_GPU = 2**17, 2**21


class SliceEncoder(InstanceEncoder, PlanarEncoder):
    """Maps [batch, channel, depth, height, width] that stack the 2D network's maps of the scan's slices.

    Every stage keeps the depth of the input. Attention weights of slices are computed from the deepest maps and applied
    to all chosen stages. Once a pooling is set, empty slices are left out; until then every slice counts, as in older
    networks.

    Attributes:
        answers: adds a map of one voxel per slice with the network's lesion answers; None adds none.
    """

    answers: LesionAnswers | None

    def __init__(self, planar: PlanarNetwork, photograph: AsPhotograph) -> None:
        super().__init__(planar, photograph)
        self.attention = GatedAttention(self.stage_channels[-1])
        self.answers = None
        self._elsewhere: Features | None = None

    def stages(self) -> list[nn.Module]:
        """Return the stem and stages; attention is part of the deepest stage, and the answers are one of their own."""
        stem, *stages = self.with_attention(super().stages())
        return [stem, *stages] if self.answers is None else [stem, *stages, self.answers]

    def answer(self) -> LesionAnswers:
        """Add a last stage with lesion answers, and return it, so that its heads can be loaded."""
        self.answers = LesionAnswers(self.stage_channels)
        self.stage_channels = (*self.stage_channels, len(KINDS))
        return self.answers

    def core(self, stages: Sequence[int]) -> nn.Module:
        """Return a module from photographs of slices to their features of all stages, concatenated."""
        return _PooledSlices(self)

    def with_core(self, core: Features) -> SliceEncoder:
        """Replace the network by ``core`` and return self; cutting into slices and pooling stay here."""
        self.net, self._elsewhere = nn.Identity(), core
        return self

    def net_maps(self, x: Tensor) -> list[Tensor]:
        """Return the map of each stage; maps of one pixel if the features are computed by another runtime.

        The channels-last layout reduces the time of a training step on a CPU to two thirds or less, and that of a
        forward pass to four fifths (docs/benchmarks.md).
        """
        if self._elsewhere is None:
            return super().net_maps(x.contiguous(memory_format=torch.channels_last))
        return list(self._elsewhere(x)[..., None, None].split(self.stage_channels, dim=1))

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """Return every slice."""
        return [(slice(k, k + 1), slice(0, shape[1]), slice(0, shape[2])) for k in range(shape[0])]

    def occupied_cuts(self, image: Tensor) -> list[Box]:
        """Return the slices that are not skipped: all of them until a pooling is set."""
        boxes = super().occupied_cuts(image)
        places = range(len(boxes)) if self.instance_pooling is None else occupied(image[None], boxes)
        return [boxes[place] for place in places]

    def instance_features(self, feature_map: Tensor) -> Tensor:
        """Return the means over height and width, [batch, slice, channel]."""
        return feature_map.mean(dim=(3, 4)).transpose(1, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the slices' 2D maps stacked along depth; those of a skipped slice are zero."""
        maps = self._slice_maps(x)
        if self.answers is None or self._elsewhere is not None:
            return maps
        return [*maps, self._of_shown(self.answers, maps).transpose(1, 2)[..., None, None]]

    def answer_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parts of the lesion answers, [batch, slice, part, kind], and slice weights, [batch, slice].

        Only for an encoder with ``answers``.

        Args:
            x: [batch, channel, depth, height, width].
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

    def _of_shown(self, answers_of: Callable[[Sequence[Tensor]], Tensor], maps: Sequence[Tensor]) -> Tensor:
        """Apply ``answers_of`` to the slices' maps, giving [batch, slice, ...]; zero for skipped slices.

        It uses the stacked maps themselves, so that gradients of a heat map reach them.
        """
        shown = is_shown(self.instance_features(maps[-1]))
        answered = answers_of([m.transpose(1, 2).flatten(0, 1) for m in maps]).unflatten(0, shown.shape)
        return answered * shown.reshape(*shown.shape, *[1] * (answered.ndim - 2))

    def _in_chunks(self, slices: Tensor) -> list[Tensor]:
        """The maps of slices, computed in chunks; in training all at once, as batch statistics are shared.

        With gradients in evaluation mode, activations are recomputed (checkpointing): those of a scan take gigabytes.
        """
        if (torch.is_grad_enabled() and self.training) or slices.is_meta:
            return self.net_maps(slices)
        again = partial(checkpoint, self.net_maps, use_reentrant=False)
        maps_of = again if torch.is_grad_enabled() else self.net_maps
        n = max(1, (_CHUNK_PIXELS_GPU if slices.is_cuda else _CHUNK_PIXELS) // slices[0, 0].numel())
        return [torch.cat(maps) for maps in zip(*map(maps_of, slices.split(n)), strict=True)]


class _PooledSlices(nn.Module):
    """Module from photographs of slices to features [slice, channel]."""

    def __init__(self, encoder: SliceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        maps, answers = self.encoder.net_maps(x), self.encoder.answers
        answered = [] if answers is None else [answers(maps)]
        return torch.cat([*(feature_map.mean(dim=(2, 3)) for feature_map in maps), *answered], dim=1)
