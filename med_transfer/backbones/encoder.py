"""Base class of every backbone: a stem and stages that turn a volume into feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from med_transfer.backbones.instance_choice import InstancePooling

Network = TypeVar("Network", bound=nn.Module)
Features = Callable[[Tensor], Tensor]  # from a batch [n, ...] to features [n, channel]
Box = tuple[slice, slice, slice]  # voxels of an input, along depth, height, width


class Encoder(nn.Module):
    """A stem followed by stages; each stage returns one feature map.

    Attributes:
        stage_channels: channels of each returned map, shallow to deep.
        new_parts: names of children that published files lack, and that start from random values.
        instance_pooling: how slices or tiles are pooled to one feature vector; None for the network's default.
        tile_overlap: least overlap of neighbouring tiles, as a share of their edge; None for the default.
        channels: number of input channels; see :mod:`med_transfer.backbones.channels`.
    """

    stage_channels: tuple[int, ...]
    new_parts: tuple[str, ...] = ()
    instance_pooling: InstancePooling | None = None
    tile_overlap: float | None = None
    channels: int = 1

    def stages(self) -> list[nn.Module]:
        """Return the stem, then each stage, in data-flow order, for freezing and layer-wise learning rates.

        Together they hold every parameter and buffer of the encoder exactly once.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of a batch, one per stage, shallow to deep. By default stages run in sequence.

        Args:
            x: [batch, channel, depth, height, width].
        """
        stem, *deeper = self.stages()
        x, maps = stem(x), []
        for stage in deeper:
            x = stage(x)
            maps.append(x)
        return maps

    def pool(self, maps: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Return pooled features [batch, channel] of the chosen stages, concatenated. By default means over space.

        Args:
            maps: feature maps from :meth:`forward`.
            stages: indices into ``maps``.
        """
        return torch.cat([maps[stage].mean(dim=(2, 3, 4)) for stage in stages], dim=1)

    def independent_parts(self, stages: Sequence[int]) -> list[tuple[Encoder, tuple[int, ...]]]:
        """Return the encoders that see the scan independently, each with its own share of ``stages``; usually one."""
        return [(self, tuple(stages))]

    def with_independent_parts(self, encoders: Sequence[Encoder]) -> Encoder:
        """Return this encoder rebuilt from replacements of the encoders that :meth:`independent_parts` returns."""
        (alone,) = encoders
        return alone

    def core(self, stages: Sequence[int]) -> nn.Module:
        """Return the expensive part of :meth:`forward` and :meth:`pool`, as one module that another runtime can run."""
        return Pooled(self, stages)

    def with_core(self, core: Features) -> Encoder:
        """Return an encoder whose core is computed by ``core``; it gives pooled features and no maps."""
        return ComputedElsewhere(self.stage_channels, core)

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """Return the slices or tiles into which an input of this shape is cut; empty if it is processed whole."""
        return []

    def occupied_cuts(self, image: Tensor) -> list[Box]:
        """Return the cuts of an input [channel, depth, height, width] that are not skipped as empty."""
        depth, height, width = image.shape[1:]
        return self.cuts((depth, height, width))

    def pooled_channels(self, stages: Sequence[int]) -> list[int]:
        """Return the number of channels that :meth:`pool` gives for each chosen stage."""
        return [self.stage_channels[stage] for stage in stages]

    def adapt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert a file's tensors, by this encoder's names, to its shapes where possible (2D to 3D)."""
        return tensors


class Pooled(nn.Module):
    """Module from a batch to the pooled features [batch, channel] of an encoder's stages, concatenated."""

    def __init__(self, encoder: Encoder, stages: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.chosen = encoder, tuple(stages)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, channel] of images [batch, channel, depth, height, width]."""
        return self.encoder.pool(self.encoder(x), self.chosen)


class ComputedElsewhere(Encoder):
    """An encoder whose pooled features another runtime computes; it cannot be trained or explained."""

    def __init__(self, stage_channels: tuple[int, ...], core: Features) -> None:
        super().__init__()
        self.stage_channels, self._core = stage_channels, core

    def stages(self) -> list[nn.Module]:
        """Return no stages."""
        return []

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the pooled features as the only element."""
        return [self._core(x)]

    def pool(self, maps: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Return the features of the stages for which the core was made; ``stages`` is ignored."""
        return maps[0]


def channels_last(network: Network) -> Network:
    """Convert the 3D kernels of a network to the channels-last layout, in place, and return it.

    ``Module.to(memory_format=torch.channels_last_3d)`` fails for a network that also has 2D kernels.
    """
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network
