"""A small network with the parts that strategies act on: a stem, two stages, BatchNorm with its own statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from med_transfer.backbones import Encoder
from med_transfer.model.classifier import Classifier


class SmallEncoder(Encoder):
    """Maps of 4 and 6 channels at 1/2 and 1/4 of the input."""

    stage_channels = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3)
        self.layer1 = nn.Sequential(nn.Conv3d(3, 4, 3, stride=2, padding=1), nn.BatchNorm3d(4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv3d(4, 6, 3, stride=2, padding=1), nn.BatchNorm3d(6), nn.ReLU())

    def stages(self) -> list[nn.Module]:
        return [nn.Sequential(self.conv1, self.bn1), self.layer1, self.layer2]

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.layer1(self.bn1(self.conv1(x)).relu())
        return [first, self.layer2(first)]


def small_classifier(seed: int = 0, n_classes: int = 2, dropout: float = 0.0) -> Classifier:
    torch.manual_seed(seed)
    encoder = SmallEncoder()
    with torch.no_grad():  # a source has met scans: its statistics are not the initial ones
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return Classifier(encoder, n_classes, dropout=dropout)


def small_images(n: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(n, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
