"""2D networks made 3D: by inflating their kernels, or by letting the kernels look from three sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from med_transfer.backbones.networks.acs import AcsConv3d
from med_transfer.backbones.networks.inflation import (
    Convolution,
    Kernel,
    Rule,
    ToVolume,
    inflate_convolution,
    inflate_kernel,
)
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import PlanarEncoder, PlanarNetwork

Way = Literal["centre", "mean", "acs"]


class VolumetricEncoder(PlanarEncoder):
    """A 2D network whose layers work on volumes.

    A file of the 2D network loads by its own names, and its kernels are inflated on the way; a file of a network of
    one's own, already 3D, loads by the same names.

    Args:
        planar: taken over, not copied.
        photograph: makes three channels of one.
        way: how kernels become 3D: inflated on the middle slice (``centre``) or evenly (``mean``), or ``acs``.
        flat_stages: so many stages, the stem being the first, keep the depth of the volume.
        rules: for layers beside those of torch.
    """

    def __init__(
        self,
        planar: PlanarNetwork,
        photograph: AsPhotograph,
        way: Way = "centre",
        flat_stages: int = 0,
        rules: Mapping[type, Rule] | None = None,
    ) -> None:
        super().__init__(planar, photograph)
        self.way: Way = way
        for number, stage in enumerate(self.parts):
            to_volume = ToVolume(_convolution(way), number < flat_stages, rules or {})
            for name in stage:
                self.net.set_submodule(name, to_volume(self.net.get_submodule(name)))

    def adapt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """2D kernels of a file inflated where this encoder has a 3D one; with ``acs`` they stay as they are."""
        if self.way == "acs":
            return tensors
        own = self.state_dict()
        return {name: _adapted(tensor, own.get(name), self.way) for name, tensor in tensors.items()}

    def forward(self, x: Tensor) -> list[Tensor]:
        """The parts of the network one after another, on the scan as a photograph."""
        return self.net_maps(self.photograph(x))


def _convolution(way: Way) -> Convolution:
    def convolution(conv: nn.Conv2d, *, flat: bool, same: bool = False) -> nn.Module:
        if way == "acs":
            return AcsConv3d(conv, flat=flat, same=same)
        return inflate_convolution(conv, flat=flat, same=same, kernel=way)

    return convolution


def _adapted(tensor: Tensor, own: Tensor | None, kernel: Kernel) -> Tensor:
    """A 2D kernel inflated to the depth of the encoder's."""
    if own is None or own.ndim != 5 or tensor.ndim != 4:
        return tensor
    return inflate_kernel(tensor, own.shape[2], kernel)
