"""2D networks converted to 3D, by inflation of their kernels or by ACS convolutions."""

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
    """A 2D network whose layers are converted to work on volumes.

    Files of the 2D network load by their own names, and their kernels are inflated on loading. Files of a network that
    is already 3D load by the same names.

    Args:
        planar: the 2D network; taken over, not copied.
        photograph: converts one channel to three.
        way: how kernels become 3D: inflated on the middle slice (``centre``), evenly (``mean``), or ``acs``.
        flat_stages: number of stages, including the stem, that keep the depth of the volume.
        rules: conversion rules for layers other than torch's.
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
        """Inflate a file's 2D kernels where this encoder has 3D ones; with ``acs`` they stay unchanged."""
        if self.way == "acs":
            return tensors
        own = self.state_dict()
        return {name: _adapted(tensor, own.get(name), self.way) for name, tensor in tensors.items()}

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the network's maps of the scan as a photograph."""
        return self.net_maps(self.photograph(x))


def _convolution(way: Way) -> Convolution:
    def convolution(conv: nn.Conv2d, *, flat: bool, same: bool = False) -> nn.Module:
        if way == "acs":
            return AcsConv3d(conv, flat=flat, same=same)
        return inflate_convolution(conv, flat=flat, same=same, kernel=way)

    return convolution


def _adapted(tensor: Tensor, own: Tensor | None, kernel: Kernel) -> Tensor:
    """Inflate a 2D kernel to the depth of the encoder's; other tensors are returned unchanged."""
    if own is None or own.ndim != 5 or tensor.ndim != 4:
        return tensor
    return inflate_kernel(tensor, own.shape[2], kernel)
