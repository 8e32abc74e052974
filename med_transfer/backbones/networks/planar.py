"""Networks for photographs, cut into stages: torchvision's ResNets and timm's convolutional networks.

They are what the encoders of ``volumetric.py`` and ``slices.py`` are made of. Tensor names stay those of the published
files, under ``net.``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.networks.photograph import AsPhotograph

_RESNETS = {18: ("basic", (2, 2, 2, 2)), 34: ("basic", (3, 4, 6, 3)), 50: ("bottleneck", (3, 4, 6, 3))}
_WIDTHS = [64, 128, 256, 512]


@dataclass(frozen=True)
class PlanarNetwork:
    """A 2D network without its classification layer.

    Attributes:
        net: takes [batch, 3, height, width]; holds nothing but the parts that ``stages`` name.
        stages: the stem, then each stage, as dotted names of parts of ``net`` in the order of the data flow.
        channels: of the map of each stage, shallow to deep.
    """

    net: nn.Module
    stages: tuple[tuple[str, ...], ...]
    channels: tuple[int, ...]


class PlanarEncoder(Encoder):
    """An encoder made of the parts of a 2D network: they lie in ``net`` under their published names.

    Args:
        planar: taken over, not copied.
        photograph: makes three normalised channels of the one channel of a scan.
    """

    def __init__(self, planar: PlanarNetwork, photograph: AsPhotograph) -> None:
        super().__init__()
        self.photograph, self.net = photograph, planar.net
        self.parts, self.stage_channels = planar.stages, planar.channels

    def stages(self) -> list[nn.Module]:
        """The parts of ``net`` that make each map; those of the stem come after the photograph."""
        stages = [[self.net.get_submodule(name) for name in stage] for stage in self.parts]
        return [nn.Sequential(*stage) for stage in ([self.photograph, *stages[0]], *stages[1:])]

    def net_maps(self, x: Tensor) -> list[Tensor]:
        """The map of each stage, as the parts of the network give it."""
        return maps_of(self.net, self.parts, x)


def maps_of(net: nn.Module, parts: Sequence[Sequence[str]], x: Tensor) -> list[Tensor]:
    """The map of each stage but the stem's; ``parts`` are the stages of :class:`PlanarNetwork`."""
    maps = []
    for stage in parts:
        for name in stage:
            x = net.get_submodule(name)(x)
        maps.append(x)
    return maps[1:]


def torchvision_resnet(depth: int) -> PlanarNetwork:
    """ResNet of depth 18, 34 or 50 with the names and the forward pass of torchvision's; maps at 1/4 to 1/32.

    It is MONAI's in two dimensions, so that torchvision need not be installed. He et al. 2016, arXiv:1512.03385.
    """
    block, layers = _RESNETS[depth]
    net = ResNet(
        block,
        list(layers),
        _WIDTHS,
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_size=7,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    )
    stages = (("conv1", "bn1", "act", "maxpool"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    widths = _WIDTHS if block == "basic" else [4 * width for width in _WIDTHS]
    return PlanarNetwork(_pruned(net, stages), stages, tuple(widths))


def timm_network(
    name: str, tail: Sequence[str] = (), tail_channels: int | None = None, **options: Any
) -> PlanarNetwork:
    """A convolutional network of timm, cut where its ``feature_info`` (the table behind ``features_only``) says.

    Args:
        name: architecture, without the tag of its weights.
        tail: parts after the last of these maps that belong to the features, for example EfficientNet's last
            convolution, which ``features_only`` leaves out.
        tail_channels: channels of the last map with that tail.
        options: of the architecture, as timm names them.
    """
    import timm  # slow to import, and most networks do without

    net: Any = timm.create_model(name, pretrained=False, num_classes=0, **options)
    maps = [(info["module"], info["num_chs"]) for info in net.feature_info if info["reduction"] >= 4]
    ends, channels = [end for end, _ in maps], [width for _, width in maps]
    stages = _stages(_pieces(net, ends), ends, tuple(tail))
    return PlanarNetwork(_pruned(net, stages), stages, (*channels[:-1], tail_channels or channels[-1]))


def _pieces(net: nn.Module, ends: Sequence[str]) -> list[str]:
    """The parts of a network in order; a sequence that holds ends of stages is taken apart."""
    pieces = []
    for name, child in net.named_children():
        inner = [f"{name}.{part}" for part, _ in child.named_children()]
        pieces += inner if set(inner) & set(ends) else [name]
    return pieces


def _stages(pieces: Sequence[str], ends: Sequence[str], tail: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Each stage reaches to its end; what lies before the last part of the first stage is the stem."""
    cuts = [pieces.index(end) + 1 for end in ends]
    stem = pieces[: cuts[0] - 1]
    later = [tuple(pieces[start:stop]) for start, stop in zip([cuts[0] - 1, *cuts[:-1]], cuts, strict=True)]
    return (tuple(stem), *later[:-1], later[-1] + tail)


def _pruned(net: nn.Module, stages: tuple[tuple[str, ...], ...]) -> nn.Module:
    """The network without the children that no stage uses: poolings and heads."""
    used = {name.partition(".")[0] for stage in stages for name in stage}
    for name, _ in list(net.named_children()):
        if name not in used:
            setattr(net, name, nn.Identity())
    return net
