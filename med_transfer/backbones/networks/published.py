"""A photograph network as published, combined with a copy of it that was trained further.

The two extract different features: one those of its further training, the other those that distinguish photographs.
They make errors on different scans, so their mean makes fewer (docs/decisions/0044-two-views-vote.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones.encoder import Box, Encoder
from med_transfer.backbones.networks.planar import PlanarNetwork
from med_transfer.backbones.networks.slices import SliceEncoder

PHOTOGRAPH_PIXELS = 224  # longer side of the images that such networks were trained on


class AsPublished(SliceEncoder):
    """Slice encoder that returns only the deepest map, of slices enlarged to the size of photographs if smaller.

    Args:
        encoder: encoder whose network and pooling are taken over.
    """

    def __init__(self, encoder: SliceEncoder) -> None:
        super().__init__(PlanarNetwork(encoder.net, encoder.parts, encoder.stage_channels[-1:]), encoder.photograph)
        self.channels = encoder.channels
        if encoder.instance_pooling is not None:
            self.pool_by(encoder.instance_pooling)

    def stages(self) -> list[nn.Module]:
        """Return the stem, and everything deeper as one stage."""
        stem, *deeper = super().stages()
        return [stem, nn.ModuleList(deeper)]

    def net_maps(self, x: Tensor) -> list[Tensor]:
        """Return the deepest map of normalised photographs [slice, 3, height, width], as a list of one."""
        return super().net_maps(_enlarged(x))[-1:]


def _enlarged(slices: Tensor) -> Tensor:
    height, width = map(int, slices.shape[2:])  # integers also when traced for another runtime
    if (larger := PHOTOGRAPH_PIXELS / max(height, width)) <= 1:
        return slices
    size = (round(larger * height), round(larger * width))
    return F.interpolate(slices, size=size, mode="bilinear", align_corners=False)


def beside_published(published: SliceEncoder, learned: Encoder) -> PublishedAndLearned:
    """Combine an encoder as published with one that was trained further; both are taken over."""
    return PublishedAndLearned(AsPublished(published), learned)


class PublishedAndLearned(Encoder):
    """The map of the published network, followed by the maps of the one trained further.

    Each processes the scan independently, so that an encoder shared by fold models is run once.

    Args:
        published, learned: the two encoders, taken over.
    """

    def __init__(self, published: Encoder, learned: Encoder) -> None:
        super().__init__()
        self.published, self.learned = published, learned
        self.stage_channels = (*published.stage_channels, *learned.stage_channels)
        self.channels = learned.channels
        self.register_load_state_dict_pre_hook(_with_current_names)

    def stages(self) -> list[nn.Module]:
        """Return both stems as one, then the stages of each encoder."""
        (stem, *one), (other_stem, *other) = self.published.stages(), self.learned.stages()
        return [nn.ModuleList([stem, other_stem]), *one, *other]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps of both encoders."""
        return [*self.published(x), *self.learned(x)]

    def pool(self, maps: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Return the pooled features [batch, channel] of both encoders, each from its own stages, concatenated."""
        n = len(self.published.stage_channels)
        (one, first), (other, second) = self.independent_parts(stages)
        return torch.cat([one.pool(maps[:n], first), other.pool(maps[n:], second)], dim=1)

    def pooled_channels(self, stages: Sequence[int]) -> list[int]:
        """Return the pooled channels of both encoders."""
        return [width for encoder, own in self.independent_parts(stages) for width in encoder.pooled_channels(own)]

    def independent_parts(self, stages: Sequence[int]) -> list[tuple[Encoder, tuple[int, ...]]]:
        """Return both encoders, each with its own share of ``stages``, of which it needs at least one."""
        n = len(self.published.stage_channels)
        first, second = (s for s in stages if s < n), (s - n for s in stages if s >= n)
        return [(self.published, tuple(first)), (self.learned, tuple(second))]

    def with_independent_parts(self, encoders: Sequence[Encoder]) -> Encoder:
        """Return a combination of two encoders that replace these."""
        return PublishedAndLearned(*encoders)

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """Return the slices, which are the same for both encoders."""
        return self.learned.cuts(shape)

    def occupied_cuts(self, image: Tensor) -> list[Box]:
        """Return the slices that are not skipped, which are the same for both encoders."""
        return self.learned.occupied_cuts(image)


def _with_current_names(module: nn.Module, tensors: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Rename tensors of older files, where the published network was a child of the one trained further."""
    children = tuple(f"{prefix}{name}." for name, _ in module.named_children())
    for name in [name for name in tensors if name.startswith(prefix) and not name.startswith(children)]:
        tensors[f"{prefix}learned.{name.removeprefix(prefix)}"] = tensors.pop(name)
