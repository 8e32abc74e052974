"""A residual network trained on videos, with three colours over time instead of one intensity over depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from med_transfer.backbones.networks.resnet import WIDTHS, ResNetEncoder, monai_resnet

# Mean and standard deviation of red, green and blue in Kinetics-400, in [0, 1], from torchvision's preset
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class VideoResNetEncoder(ResNetEncoder):
    """torchvision's r3d_18 for one channel in [0, 1]; maps at 1/1 to 1/8 in depth, 1/2 to 1/16 in height and width.

    A scan is treated as a grey video: the same value in all three colours, each standardised as in training.
    """

    def __init__(self, blocks: Sequence[int] = (2, 2, 2, 2), widths: Sequence[int] = WIDTHS) -> None:
        net = monai_resnet(
            "basic", blocks, widths, n_input_channels=3, conv1_t_size=(3, 7, 7), conv1_t_stride=(1, 2, 2)
        )
        super().__init__(net, max_pool=nn.Identity())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return four maps of a scan [batch, 1, depth, height, width] in [0, 1]."""
        colours = [(x - mean) / std for mean, std in zip(KINETICS_MEAN, KINETICS_STD, strict=True)]
        return super().forward(torch.cat(colours, dim=1))


def r3d18() -> VideoResNetEncoder:
    """Return torchvision's 3D ResNet-18. Source: Tran et al. 2018, arXiv:1711.11248."""
    return VideoResNetEncoder()
