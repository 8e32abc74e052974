"""What every backbone is: a stem and stages that turn a volume into feature maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from med_transfer.backbones.instance_choice import InstancePooling

Network = TypeVar("Network", bound=nn.Module)
Features = Callable[[Tensor], Tensor]  # of a batch [n, ...] the features [n, channel]
Box = tuple[slice, slice, slice]  # of an input's voxels, along depth, height, width


class Encoder(nn.Module):
    """A stem followed by stages; each stage gives one feature map.

    Attributes:
        stage_channels: channels of each returned map, shallow to deep.
        new_parts: children that no published file has, and that start from random values beside loaded weights.
        instance_pooling: how slices or tiles become one row of features, where that was chosen.
        tile_overlap: share of a tile's edge that its neighbours show too at least, where that was chosen.
        channels: of the input; see :mod:`med_transfer.backbones.channels`.
    """

    stage_channels: tuple[int, ...]
    new_parts: tuple[str, ...] = ()
    instance_pooling: InstancePooling | None = None
    tile_overlap: float | None = None
    channels: int = 1

    def stages(self) -> list[nn.Module]:
        """The stem, then each stage, in the order of the data flow: for freezing and layer-wise learning rates.

        Together they hold every parameter and every buffer of the encoder, each once.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of a batch, one a stage, shallow to deep: the stages one after another, unless overridden.

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
        """Features [batch, channel] of the chosen stages, joined: means over space, unless the encoder knows better.

        Args:
            maps: as :meth:`forward` gives them.
            stages: indices into ``maps``.
        """
        return torch.cat([maps[stage].mean(dim=(2, 3, 4)) for stage in stages], dim=1)

    def apart(self, stages: Sequence[int]) -> list[tuple[Encoder, tuple[int, ...]]]:
        """The encoders that see the scan each by itself, with those of the stages that are its own; most are one."""
        return [(self, tuple(stages))]

    def put_together(self, encoders: Sequence[Encoder]) -> Encoder:
        """What :meth:`apart` gave, with others in their places."""
        (alone,) = encoders
        return alone

    def core(self, stages: Sequence[int]) -> nn.Module:
        """What of :meth:`forward` and :meth:`pool` takes the time, as one module that another runtime can compute."""
        return Pooled(self, stages)

    def with_core(self, core: Features) -> Encoder:
        """The encoder with its core computed elsewhere, taken over; it gives features and no maps."""
        return ComputedElsewhere(self.stage_channels, core)

    def cuts(self, shape: tuple[int, int, int]) -> list[Box]:
        """What it takes one by one of an input of this shape: slices, or tiles; empty where it takes the whole."""
        return []

    def taken(self, image: Tensor) -> list[Box]:
        """Those of the cuts of an input [channel, depth, height, width] that it does not leave out as empty."""
        depth, height, width = image.shape[1:]
        return self.cuts((depth, height, width))

    def pooled_channels(self, stages: Sequence[int]) -> list[int]:
        """Of each chosen stage, how many channels :meth:`pool` gives."""
        return [self.stage_channels[stage] for stage in stages]

    def adapt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file, by this encoder's names, in this encoder's shapes where it can tell how (2D to 3D)."""
        return tensors


class Pooled(nn.Module):
    """A batch to the features [batch, channel] of an encoder's stages, joined."""

    def __init__(self, encoder: Encoder, stages: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.chosen = encoder, tuple(stages)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel] of a batch [batch, channel, depth, height, width]."""
        return self.encoder.pool(self.encoder(x), self.chosen)


class ComputedElsewhere(Encoder):
    """An encoder whose features another runtime computes, pooled already; there is nothing to train or to explain."""

    def __init__(self, stage_channels: tuple[int, ...], core: Features) -> None:
        super().__init__()
        self.stage_channels, self._core = stage_channels, core

    def stages(self) -> list[nn.Module]:
        """None."""
        return []

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features alone."""
        return [self._core(x)]

    def pool(self, maps: Sequence[Tensor], stages: Sequence[int]) -> Tensor:
        """Those of the stages for which the core was made."""
        return maps[0]


def channels_last(network: Network) -> Network:
    """The network with its 3D kernels in the channels-last layout, in place; other tensors stay as they are.

    ``Module.to(memory_format=torch.channels_last_3d)`` refuses a network that holds 2D kernels too.
    """
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network
