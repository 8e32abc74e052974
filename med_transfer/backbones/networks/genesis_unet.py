"""The encoder of Models Genesis' 3D U-Net, which SuPreM retrained on other data.

Tensor names are the project's own: ``down_tr64.ops.0.conv1``, ``down_tr64.ops.0.bn1``, ...
"""

from __future__ import annotations

from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder


class GenesisEncoder(Encoder):
    """The contracting path: 64 channels at full size (the stem), then maps at 1/2, 1/4 and 1/8 of the input.

    The original's batch normalisation never uses its running statistics: even in evaluation it normalises by the mean
    and variance of the batch. The statistics in published files must not be loaded, as a standard batch normalisation
    would use them and give different features. Here every scan is normalised by its own statistics, in training and
    evaluation. This equals the original for a batch of one scan, and makes a patient's result independent of the rest
    of the batch. Every normalised map needs more than one voxel.

    Args:
        widths: channels of the four levels; the first convolution of a level outputs half as many.

    Source: Zhou et al. 2019, arXiv:1908.06912; github MrGiovanni/ModelsGenesis, pytorch/unet3d.py.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.down_tr64 = _Level(1, widths[0])
        self.down_tr128 = _Level(widths[0], widths[1])
        self.down_tr256 = _Level(widths[1], widths[2])
        self.down_tr512 = _Level(widths[2], widths[3])
        self.halve = nn.MaxPool3d(2)
        self.stage_channels = tuple(widths[1:])

    def stages(self) -> list[nn.Module]:
        """Return the level at full size, then each pooling with the level after it."""
        deeper = (self.down_tr128, self.down_tr256, self.down_tr512)
        return [self.down_tr64, *(nn.Sequential(self.halve, level) for level in deeper)]


class _Level(nn.Module):
    """Two convolutions; the first outputs half of the channels."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.ops = nn.Sequential(_Convolution(given, made // 2), _Convolution(made // 2, made))

    def forward(self, x: Tensor) -> Tensor:
        return self.ops(x)


class _Convolution(nn.Module):
    """Convolution with bias, per-scan normalisation, ReLU."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(given, made, kernel_size=3, padding=1)
        self.bn1 = nn.InstanceNorm3d(made, affine=True)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.bn1(self.conv1(x)))
