"""The encoder of STU-Net: residual blocks in the contracting path of an nnU-Net.

Tensor names are the project's own: ``conv_blocks_context.0.0.conv1``, ``conv_blocks_context.0.0.norm1``, ...
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder


class STUNetEncoder(Encoder):
    """The contracting path: the first stage at full size (the stem), then maps at 1/2 to 1/32 of the input.

    Args:
        widths: channels of each stage, the stem's first.
        depth: residual blocks per stage.

    Source: Huang et al. 2023, arXiv:2304.06716; github uni-medical/STU-Net, STUNet.py.
    """

    def __init__(self, widths: Sequence[int], depth: int) -> None:
        super().__init__()
        self.conv_blocks_context = nn.ModuleList()
        given = 1
        for stage, width in enumerate(widths):
            first = ResidualBlock(given, width, stride=1 if stage == 0 else 2, projection=True)
            self.conv_blocks_context.append(
                nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(depth - 1)))
            )
            given = width
        self.stage_channels = tuple(widths[1:])

    def stages(self) -> list[nn.Module]:
        """Return the residual blocks of each resolution, full resolution first."""
        return list(self.conv_blocks_context)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut; a projection shortcut has a bias and no normalisation."""

    def __init__(self, given: int, made: int, stride: int = 1, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(given, made, kernel_size=3, stride=stride, padding=1)
        self.norm1 = nn.InstanceNorm3d(made, affine=True)
        self.conv2 = nn.Conv3d(made, made, kernel_size=3, padding=1)
        self.norm2 = nn.InstanceNorm3d(made, affine=True)
        self.conv3 = nn.Conv3d(given, made, kernel_size=1, stride=stride) if projection else None
        self.act = nn.LeakyReLU(0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, made, depth, height, width], each axis divided by ``stride``."""
        y = self.act(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.act(y + (x if self.conv3 is None else self.conv3(x)))
