"""A light decoder from an encoder's feature maps to voxels, discarded after pretraining."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LightDecoder(nn.Module):
    """From deep to shallow: upsample, add the next map, mix. After feature pyramids, Lin et al. 2017, arXiv:1612.03144.

    Args:
        stage_channels: of the encoder's maps, shallow to deep.
        width: channels of the decoder.
    """

    def __init__(self, stage_channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv3d(channels, width, 1) for channels in stage_channels)
        self.mix = nn.ModuleList(_mixing(width) for _ in stage_channels)
        self.last = nn.Conv3d(width, 1, 3, padding=1)

    def forward(self, maps: list[Tensor], shape: tuple[int, int, int]) -> Tensor:
        """Decode a batch of maps to [batch, 1, *shape], in the maps' orientation."""
        x = None
        for lateral, mix, features in reversed(list(zip(self.lateral, self.mix, maps, strict=True))):
            here = lateral(features)
            if x is not None:
                here = here + _enlarged(x, tuple(here.shape[2:]))
            x = mix(here)
        return self.last(_enlarged(x, shape)) if x is not None else maps[0].new_zeros(())


def _mixing(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(width, width, 3, padding=1, bias=False), nn.BatchNorm3d(width), nn.ReLU())


def _enlarged(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, shape, mode="trilinear", align_corners=False)
