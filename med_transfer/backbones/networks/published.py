"""A network of photographs as it was published, beside a copy of it that has learned something else since.

The two see different things: one what a label asks for, the other whatever tells photographs apart. What they say of a
scan errs on different scans, so that the mean of both errs less (docs/decisions/0044-two-views-vote.md).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones.networks.planar import PlanarEncoder, maps_of

PHOTOGRAPH_PIXELS = 224  # along the longer side: what such networks learned from


class AsPublished(nn.Module):
    """Its deepest map, of slices that are enlarged to the size of photographs where they are smaller.

    Args:
        encoder: whose network is taken over.
    """

    def __init__(self, encoder: PlanarEncoder) -> None:
        super().__init__()
        self.net, self.parts = encoder.net, encoder.parts

    def forward(self, slices: Tensor) -> Tensor:
        """[slice, channel, height, width] of normalised photographs [slice, 3, height, width]."""
        height, width = map(int, slices.shape[2:])  # also where another runtime traces it
        if (larger := PHOTOGRAPH_PIXELS / max(height, width)) > 1:
            size = (round(larger * height), round(larger * width))
            slices = F.interpolate(slices, size=size, mode="bilinear", align_corners=False)
        return maps_of(self.net, self.parts, slices)[-1]
