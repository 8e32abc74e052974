"""What painting into crops needs: seeded random numbers, positions in millimetres, soft edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class RandomNumbers:
    """Drawn on the device; the state of ``random`` makes a resumed run go on with the same pictures."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.random = torch.Generator(device).manual_seed(seed)

    def share(self, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(shape, generator=self.random, device=self.device)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high)."""
        return low + (high - low) * self.share(*shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self.random, device=self.device)

    def direction(self, n: int) -> Tensor:
        """Unit vectors [n, 3], uniform over the sphere."""
        return F.normalize(self.normal(n, 3), dim=1)

    def offset(self, size_mm: Tensor) -> Tensor:
        """A point of the crop, mm from its middle along depth, height, width."""
        return (self.share(*size_mm.shape) - 0.5) * size_mm

    def field(self, like: Tensor, cells: tuple[int, int, int]) -> Tensor:
        """A smooth random field of standard deviation about 0.5 with so many cells along each axis."""
        return F.interpolate(self.normal(len(like), 1, *cells), like.shape[2:], mode="trilinear", align_corners=False)


def wide(x: Tensor) -> Tensor:
    """[batch] so that it multiplies [batch, 1, depth, height, width]."""
    return x[:, None, None, None, None]


def position_mm(hu: Tensor, size_mm: Tensor) -> Tensor:
    """Millimetres from the crop's middle along depth, height, width: [batch, 3, depth, height, width]."""
    steps = [(torch.arange(n, device=hu.device) + 0.5) / n - 0.5 for n in hu.shape[2:]]
    return torch.stack(torch.meshgrid(*steps, indexing="ij"))[None] * size_mm[:, :, None, None, None]


def distance_to_line(position: Tensor, point: Tensor, direction: Tensor) -> Tensor:
    """Millimetres from each position [batch, 3, ...] to a line through a point, [batch, 1, ...]; unit directions."""
    offset = position - point[:, :, None, None, None]
    direction = direction[:, :, None, None, None]
    along = (offset * direction).sum(1, keepdim=True)
    return (offset - along * direction).square().sum(1, keepdim=True).sqrt()


def inside(signed_distance_mm: Tensor, edge_mm: float) -> Tensor:
    """1 inside (negative distance), 0 outside, with an edge as soft as a scanner's."""
    return torch.sigmoid(-signed_distance_mm * (2 / edge_mm))


def blend(hu: Tensor, mask: Tensor, value_hu: Tensor, texture: Tensor | float = 0.0) -> Tensor:
    """HU with a value [batch] and its texture in the place of what a mask (shares of voxels) covers."""
    return hu + mask * (wide(value_hu) + texture - hu)
