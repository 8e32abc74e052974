"""The part of a ResNet-50 that MONAI's lung nodule detector uses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.networks.resnet import monai_resnet


class NoduleDetectorEncoder(Encoder):
    """Stem and first two stages of a ResNet-50, which are all that the detector's feature pyramid and file contain.

    Differs from the standard ResNet: the first convolution does not stride along the third axis (across slices), and
    shortcut convolutions have a bias. As in the original, slices are the last axis.

    Args:
        blocks: number of blocks in each of the two stages.
        widths: widths of the two stages; each outputs four times as many channels.
    """

    def __init__(self, blocks: Sequence[int] = (3, 4), widths: Sequence[int] = (64, 128)) -> None:
        super().__init__()
        net = monai_resnet(
            "bottleneck", [*blocks, 1, 1], [*widths, 1, 1], conv1_t_stride=(2, 2, 1), bias_downsample=True
        )
        self.conv1, self.bn1, self.act, self.maxpool = net.conv1, net.bn1, net.act, net.maxpool
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.stage_channels = tuple(4 * width for width in widths)

    def stages(self) -> list[nn.Module]:
        """Return the stem with its pooling, then the two stages of the detector."""
        return [nn.Sequential(self.conv1, self.bn1, self.act, self.maxpool), self.layer1, self.layer2]
