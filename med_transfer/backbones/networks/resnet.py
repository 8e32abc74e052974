"""Residual networks in 3D, built on MONAI's blocks, with the forward pass that each set of weights was trained with.

A weights file determines only names and shapes. Stride, dilation, pooling and shortcut type leave no trace in it: the
same tensors load without error into a network with another stride, and give other features. Each builder therefore
states them.

Tensor names are the usual ones (``conv1``, ``bn1``, ``layer1.0.conv1``, ..., as in torchvision, MONAI and MedicalNet).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder

BLOCKS = {  # depth: block type, number of blocks in each stage (He et al. 2016, table 1)
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
WIDTHS = (64, 128, 256, 512)


class ResNetEncoder(Encoder):
    """The encoder of a MONAI ResNet, returning the map of each of its four stages.

    Args:
        net: MONAI network; its classification layer is dropped.
        max_pool: replacement for the stem's pooling (kernel 3, stride 2, padding 1).
        repeat_channels: how often each input channel is repeated before the first convolution.
    """

    def __init__(self, net: ResNet, max_pool: nn.Module | None = None, repeat_channels: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act = net.conv1, net.bn1, net.act
        self.maxpool = max_pool or net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.repeat_channels = repeat_channels
        self.stage_channels = tuple(_out_channels(layer[-1]) for layer in self.stages()[1:])  # type: ignore[index]

    def stages(self) -> list[nn.Module]:
        """Return the stem with its pooling, then the four layers."""
        stem = nn.Sequential(self.conv1, self.bn1, self.act, self.maxpool)
        return [stem, self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one map per layer; the builders below state their resolutions."""
        if self.repeat_channels > 1:
            x = x.unsqueeze(1).expand(-1, self.repeat_channels, *x.shape[1:]).flatten(1, 2)
        return super().forward(x)


class ZeroPaddedShortcut(nn.Module):
    """Shortcut of type A: keep every ``stride``-th voxel and zero-pad the channels. No parameters.

    MONAI and MedicalNet compute the same values from ``x.data``, which blocks the gradient; this one passes it on.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, channels, depth, height, width], from a map with at most as many channels."""
        x = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.channels - x.shape[1]))


def plain_resnet(depth: int) -> ResNetEncoder:
    """Return a 3D ResNet of depth 10, 18, 34 or 50 for one channel; maps at 1/4, 1/8, 1/16 and 1/32 of the input.

    The first convolution has stride 2; MONAI's default of 1 takes nine times as long.
    Source: Hara et al. 2018, arXiv:1711.09577.
    """
    block, layers = BLOCKS[depth]
    return ResNetEncoder(monai_resnet(block, layers, conv1_t_stride=2))


def slim_resnet(width: int = 32) -> ResNetEncoder:
    """Return a slim ResNet-18 for small crops on a CPU; maps at 1/2, 1/4, 1/8 and 1/16 of the input.

    The stem preserves the resolution of a small crop: a 3x3x3 convolution of stride 1, then 2x2x2 pooling.

    Args:
        width: channels of the first stage, doubled by each following one; 32 gives 8.3 M parameters.
    """
    block, layers = BLOCKS[18]
    widths = [width * factor for factor in (1, 2, 4, 8)]
    net = monai_resnet(block, layers, widths=widths, conv1_t_size=3, conv1_t_stride=1)
    return ResNetEncoder(net, max_pool=nn.MaxPool3d(kernel_size=2, stride=2))


def medicalnet(depth: int) -> ResNetEncoder:
    """Return MedicalNet's ResNet of depth 10 to 200; one map at 1/4 and three at 1/8 of the input.

    The published networks were trained for segmentation: stages 3 and 4 are dilated (2, 4) instead of strided, and
    depths 18 and 34 have parameter-free shortcuts. Source: Chen et al. 2019, arXiv:1904.00625; github
    Tencent/MedicalNet.
    """
    block, layers = BLOCKS[depth]
    shortcut = "A" if depth in (18, 34) else "B"
    encoder = ResNetEncoder(monai_resnet(block, layers, conv1_t_stride=2, shortcut_type=shortcut))
    if shortcut == "A":
        _replace_shortcuts(encoder)
    _dilate(encoder.layer3, 2)
    _dilate(encoder.layer4, 4)
    return encoder


def inflated_resnet(layers: Sequence[int] = BLOCKS[152][1]) -> ResNetEncoder:
    """Return the I3D ResNet-152 of Merlin and Astra; maps at 1/2 to 1/16 in depth, 1/4 to 1/32 in height and width.

    It is a 2D ResNet inflated to 3D with three input channels, so a CT is repeated three times. The first convolution
    has stride 1 along depth. Source: Blankemeier et al. 2024, arXiv:2406.06512.
    """
    net = monai_resnet("bottleneck", layers, n_input_channels=3, conv1_t_size=(3, 7, 7), conv1_t_stride=(1, 2, 2))
    return ResNetEncoder(net, repeat_channels=3)


def monai_resnet(block: str, layers: Sequence[int], widths: Sequence[int] = WIDTHS, **options) -> ResNet:
    """Return MONAI's ResNet without its classification layer; by default in 3D for one channel."""
    usual = {"spatial_dims": 3, "n_input_channels": 1, "feed_forward": False, "bias_downsample": False}
    return ResNet(block, list(layers), list(widths), **(usual | options))


def _out_channels(block: nn.Module) -> int:
    """Output channels of a residual block, which are those of its last normalisation."""
    norms = [module for name, module in block.named_children() if name.startswith("bn")]
    return norms[-1].num_features  # type: ignore[return-value]


def _replace_shortcuts(encoder: ResNetEncoder) -> None:
    """Replace MONAI's shortcut functions by ZeroPaddedShortcut."""
    for layer in encoder.stages()[1:]:
        first = layer[0]  # type: ignore[index]
        if first.downsample is not None:
            first.downsample = ZeroPaddedShortcut(_out_channels(first), first.stride)


def _dilate(layer: nn.Module, dilation: int) -> None:
    """Set all strides of a stage to 1, and dilate its 3x3x3 convolutions with size-preserving padding."""
    for module in layer.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = (1, 1, 1)
            if module.kernel_size == (3, 3, 3):
                module.dilation = module.padding = (dilation, dilation, dilation)
        elif isinstance(module, ZeroPaddedShortcut):
            module.stride = 1
