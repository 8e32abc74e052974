"""A network of photographs as it was published, beside a copy of it that has learned something else since.

The two see different things: one what a label asks for, the other whatever tells photographs apart. What they say of a
scan errs on different scans, so that the mean of both errs less (docs/decisions/0044-two-views-vote.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones.encoder import Box, Encoder
from med_transfer.backbones.networks.planar import PlanarNetwork
from med_transfer.backbones.networks.slices import SliceEncoder

PHOTOGRAPH_PIXELS = 224  # along the longer side: what such networks learned from


class AsPublished(SliceEncoder):
    """The deepest map alone, of slices that are enlarged to the size of photographs where they are smaller.

    Args:
        encoder: whose network is taken over, and which has been told how to pool.
    """

    def __init__(self, encoder: SliceEncoder) -> None:
        super().__init__(PlanarNetwork(encoder.net, encoder.parts, encoder.stage_channels[-1:]), encoder.photograph)
        self.channels = encoder.channels
        if encoder.instance_pooling is not None:
            self.pool_by(encoder.instance_pooling)

    def stages(self) -> list[nn.Module]:
        """The stem, and all that is deeper."""
        stem, *deeper = super().stages()
        return [stem, nn.ModuleList(deeper)]

    def net_maps(self, x: Tensor) -> list[Tensor]:
        """The deepest map, of normalised photographs [slice, 3, height, width]."""
        return super().net_maps(_enlarged(x))[-1:]


def _enlarged(slices: Tensor) -> Tensor:
    height, width = map(int, slices.shape[2:])  # also where another runtime traces it
    if (larger := PHOTOGRAPH_PIXELS / max(height, width)) <= 1:
        return slices
    size = (round(larger * height), round(larger * width))
    return F.interpolate(slices, size=size, mode="bilinear", align_corners=False)


def beside_published(published: SliceEncoder, learned: Encoder) -> PublishedAndLearned:
    """An encoder as it was published, and one that has learned more, as one; both are taken over."""
    return PublishedAndLearned(AsPublished(published), learned)


class PublishedAndLearned(Encoder):
    """First the map of the network as it was published, then those of the one that has learned more.

    Each sees the scan by itself, so that what many fold models have in common is computed once.

    Args:
        published, learned: taken over.
    """

    def __init__(self, published: Encoder, learned: Encoder) -> None:
        super().__init__()
        self.published, self.learned = published, learned
        self.stage_channels = (*published.stage_channels, *learned.stage_channels)
        self.channels = learned.channels
        self.register_load_state_dict_pre_hook(_with_names_of_today)

    def stages(self) -> list[nn.Module]:
        """Both stems, then each stage of either."""
        (stem, *one), (other_stem, *other) = self.published.stages(), self.learned.stages()
        return [nn.ModuleList([stem, other_stem]), *one, *other]

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of both."""
        return [*self.published(x), *self.learned(x)]

    def pool(self, maps: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Each one's features of its own stages, joined."""
        n = len(self.published.stage_channels)
        (one, first), (other, second) = self.apart(stages)
        return torch.cat([one.pool(maps[:n], first), other.pool(maps[n:], second)], dim=1)

    def pooled_channels(self, stages: Sequence[int]) -> list[int]:
        """As each one's."""
        return [width for encoder, own in self.apart(stages) for width in encoder.pooled_channels(own)]

    def apart(self, stages: Sequence[int]) -> list[tuple[Encoder, tuple[int, ...]]]:
        """Both; of each at least one stage is read."""
        n = len(self.published.stage_channels)
        first, second = (s for s in stages if s < n), (s - n for s in stages if s >= n)
        return [(self.published, tuple(first)), (self.learned, tuple(second))]

    def put_together(self, encoders: Sequence[Encoder]) -> Encoder:
        """Two, in the place of both."""
        return PublishedAndLearned(*encoders)

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """The slices, which are the same for both."""
        return self.learned.cuts(shape)

    def taken(self, image: Tensor) -> list[Box]:
        """The slices that are computed, which are the same for both."""
        return self.learned.taken(image)


def _with_names_of_today(module: nn.Module, tensors: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Weights are read, too, in which the published network lay within the one that has learned more."""
    children = tuple(f"{prefix}{name}." for name, _ in module.named_children())
    for name in [name for name in tensors if name.startswith(prefix) and not name.startswith(children)]:
        tensors[f"{prefix}learned.{name.removeprefix(prefix)}"] = tensors.pop(name)
