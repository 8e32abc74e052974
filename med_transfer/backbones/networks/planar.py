"""2D networks for photographs, divided into stages: torchvision's ResNets and timm's convolutional networks.

The encoders of ``volumetric.py`` and ``slices.py`` are built from them. Tensor names are those of the published files,
under ``net.``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.resnet import BLOCKS, WIDTHS, monai_resnet


@dataclass(frozen=True)
class PlanarNetwork:
    """A 2D network without its classification layer.

    Attributes:
        net: network for [batch, 3, height, width], reduced to the submodules that ``stages`` name.
        stages: the stem, then each stage, as dotted names of submodules of ``net`` in data-flow order.
        channels: channels of each stage's map, shallow to deep.
    """

    net: nn.Module
    stages: tuple[tuple[str, ...], ...]
    channels: tuple[int, ...]


class PlanarEncoder(Encoder):
    """An encoder built from a 2D network, whose submodules keep their published names under ``net``.

    Args:
        planar: the 2D network; taken over, not copied.
        photograph: converts a scan's channel to three normalised colours.
    """

    def __init__(self, planar: PlanarNetwork, photograph: AsPhotograph) -> None:
        super().__init__()
        self.photograph, self.net = photograph, planar.net
        self.parts, self.stage_channels = planar.stages, planar.channels

    def stages(self) -> list[nn.Module]:
        """Return the submodules of ``net`` that compute each map; the stem includes the conversion to a photograph."""
        stages = [[self.net.get_submodule(name) for name in stage] for stage in self.parts]
        return [nn.Sequential(*stage) for stage in ([self.photograph, *stages[0]], *stages[1:])]

    def net_maps(self, x: Tensor) -> list[Tensor]:
        """Return the map of each stage."""
        return maps_of(self.net, self.parts, x)


def maps_of(net: nn.Module, parts: Sequence[Sequence[str]], x: Tensor) -> list[Tensor]:
    """Return the map of each stage except the stem; ``parts`` are the stages of :class:`PlanarNetwork`."""
    maps = []
    for stage in parts:
        for name in stage:
            x = net.get_submodule(name)(x)
        maps.append(x)
    return maps[1:]


def torchvision_resnet(depth: int) -> PlanarNetwork:
    """Return a ResNet of depth 18, 34 or 50 with torchvision's names and forward pass; maps at 1/4 to 1/32.

    It is MONAI's ResNet in two dimensions, so that torchvision is not required. Source: He et al. 2016,
    arXiv:1512.03385.
    """
    block, layers = BLOCKS[depth]
    net = monai_resnet(block, layers, spatial_dims=2, n_input_channels=3, conv1_t_stride=2)
    stages = (("conv1", "bn1", "act", "maxpool"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    expansion = 1 if block == "basic" else 4
    return PlanarNetwork(_pruned(net, stages), stages, tuple(expansion * width for width in WIDTHS))


def timm_network(
    name: str, tail: Sequence[str] = (), tail_channels: int | None = None, **options: Any
) -> PlanarNetwork:
    """Return a convolutional network of timm, divided by its ``feature_info`` (the table behind ``features_only``).

    Args:
        name: architecture, without the tag of its weights.
        tail: submodules after the last of these maps that belong to the features, for example EfficientNet's last
            convolution, which ``features_only`` leaves out.
        tail_channels: channels of the last map with that tail.
        options: options of the architecture, passed to timm.
    """
    import timm  # slow to import, and most networks do not need it

    net: Any = timm.create_model(name, pretrained=False, num_classes=0, **options)
    maps = [(info["module"], info["num_chs"]) for info in net.feature_info if info["reduction"] >= 4]
    ends, channels = [end for end, _ in maps], [width for _, width in maps]
    stages = _stages(_pieces(net, ends), ends, tuple(tail))
    return PlanarNetwork(_pruned(net, stages), stages, (*channels[:-1], tail_channels or channels[-1]))


def _pieces(net: nn.Module, ends: Sequence[str]) -> list[str]:
    """Submodule names of a network in order; a container that holds ends of stages is expanded."""
    pieces = []
    for name, child in net.named_children():
        inner = [f"{name}.{part}" for part, _ in child.named_children()]
        pieces += inner if set(inner) & set(ends) else [name]
    return pieces


def _stages(pieces: Sequence[str], ends: Sequence[str], tail: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Group pieces into stages by their ends; everything before the last piece of the first stage is the stem."""
    cuts = [pieces.index(end) + 1 for end in ends]
    stem = pieces[: cuts[0] - 1]
    later = [tuple(pieces[start:stop]) for start, stop in zip([cuts[0] - 1, *cuts[:-1]], cuts, strict=True)]
    return (tuple(stem), *later[:-1], later[-1] + tail)


def _pruned(net: nn.Module, stages: tuple[tuple[str, ...], ...]) -> nn.Module:
    """Replace the children that no stage uses (poolings and heads) by identities."""
    used = {name.partition(".")[0] for stage in stages for name in stage}
    for name, _ in list(net.named_children()):
        if name not in used:
            setattr(net, name, nn.Identity())
    return net
