"""Turn a 2D network trained on photographs into a CT encoder: by inflation, by ACS convolutions, or slice by slice.

All ways use the same file of 2D weights. Each is an entry of its own, so that a bundle can rebuild its network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from med_transfer.backbones import networks
from med_transfer.backbones.networks.colours import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    THREE_WINDOWS_HU,
    THREE_WINDOWS_RANGE_HU,
    Colours,
)
from med_transfer.backbones.spec import BackboneSpec, InputSpec, Triple, WeightsSource
from med_transfer.backbones.weights.renaming import Renaming

if TYPE_CHECKING:  # these import torch
    from med_transfer.backbones.encoder import Encoder
    from med_transfer.backbones.networks.inflation import Rule
    from med_transfer.backbones.networks.photograph import AsPhotograph
    from med_transfer.backbones.networks.planar import PlanarNetwork
    from med_transfer.backbones.networks.volumetric import Way

NET = (r"^(?!net\.)", "net.")  # published names are under ``net.`` here
UNDER_NET = Renaming(replace=(NET,))
_NOTE = (
    "Orientation and window are this program's choice, as photographs prescribe none, and so is the spacing that you "
    "give. The weights were trained on ImageNet, whose images are for non-commercial research and education; whether "
    "that binds the weights is not settled."
)


@dataclass(frozen=True)
class PlanarSource:
    """A 2D network, independent of how it is made 3D.

    Attributes:
        parameters: number of parameters, by the way it is made 3D.
        flat_stages: number of stages that keep the depth when inflated, so that the total stride along depth is 8.
    """

    name: str
    planar: Callable[[], PlanarNetwork]
    channels: tuple[int, ...]
    parameters: Mapping[str, int]
    weights: WeightsSource
    licence: str
    source: str
    paper: str
    renaming: Renaming = UNDER_NET
    normalisation: tuple[Colours, Colours] = (IMAGENET_MEAN, IMAGENET_STD)
    flat_stages: int = 1
    rules: Callable[[], Mapping[type, Rule]] = dict
    sha256: str | None = None
    notes: str = ""


@dataclass(frozen=True)
class Transfer:
    """How a 2D network becomes an encoder of volumes.

    Attributes:
        counted_as: key of the network's ``parameters``.
        window_hu: window of the input, in HU.
        windows_hu: three windows cut from the input as red, green and blue; None repeats the input three times.
    """

    prefix: str
    make: Callable[[PlanarSource, AsPhotograph], Encoder]
    counted_as: str
    minimum_shape: Triple
    notes: str
    instances: Literal["", "slices"] = ""
    suffix: str = ""
    window_hu: tuple[float, float] = (-1000.0, 400.0)
    windows_hu: Sequence[tuple[float, float]] | None = None


def _volumetric(way: Way, net: PlanarSource, photograph: AsPhotograph) -> Encoder:
    flat = 0 if way == "acs" else net.flat_stages
    return networks.VolumetricEncoder(net.planar(), photograph, way, flat, net.rules())


def _slices(net: PlanarSource, photograph: AsPhotograph) -> Encoder:
    return networks.SliceEncoder(net.planar(), photograph)


def _build(net: PlanarSource, way: Transfer) -> Encoder:
    return way.make(net, networks.AsPhotograph(*net.normalisation, way.windows_hu))


def transferred(net: PlanarSource, way: Transfer) -> BackboneSpec:
    """Return the registry entry of a 2D network made 3D in one way."""
    return BackboneSpec(
        name=f"{way.prefix}-{net.name}{way.suffix}",
        build=partial(_build, net, way),
        input=InputSpec(1, "SPL", way.window_hu, (0.0, 1.0), way.minimum_shape),
        stage_channels=net.channels,
        parameters=net.parameters[way.counted_as],
        weights=net.weights,
        licence=net.licence,
        commercial_use=True,
        source=net.source,
        paper=net.paper,
        training_data="ImageNet-1k: 1.28 million photographs of 1000 classes",
        renaming=net.renaming,
        sha256=net.sha256,
        takes_colours=way.windows_hu is None,
        instances=way.instances,
        notes=" ".join(part for part in (way.notes, net.notes, _NOTE) if part),
    )


# Ways to make a 2D network 3D ---------------------------------------------------------------------------------

INFLATED = Transfer(
    "inflated",
    partial(_volumetric, "centre"),
    "inflated",
    (8, 32, 32),
    "Kernels are inflated on their middle slice: at first each slice gives what the 2D network gives for it.",
)
INFLATED_MEAN = Transfer(
    "inflated-mean",
    partial(_volumetric, "mean"),
    "inflated",
    (8, 32, 32),
    "Kernels are spread evenly over three slices, as in I3D (arXiv:1705.07750): at first slices are averaged.",
)
ACS = Transfer(
    "acs",
    partial(_volumetric, "acs"),
    "planar",
    (32, 32, 32),
    "The 2D kernels look at axial, coronal and sagittal planes (ACS convolution, arXiv:1911.10477); equal voxel "
    "sizes along all axes suit it best.",
)
SLICES = Transfer(
    "slices",
    _slices,
    "slices",
    (1, 32, 32),
    "The 2D network runs on every slice; gated attention (arXiv:1802.04712) weighs the slices, equally before it "
    "has learnt.",
    instances="slices",
)


def windowed(way: Transfer) -> Transfer:
    """Return a variant that uses three CT windows as red, green and blue, instead of one window three times."""
    notes = (
        f"{way.notes} Lung, soft tissue and bone windows, cut from the input, are its three channels: leave "
        "input.window_hu and input.output_range as they are."
    )
    return replace(way, suffix="-windows", window_hu=THREE_WINDOWS_RANGE_HU, windows_hu=THREE_WINDOWS_HU, notes=notes)
