"""Basic tools of painting into crops: seeded random numbers, positions in millimetres, soft edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class RandomNumbers:
    """Random numbers drawn on the device; a resumed run continues with the same images from the state of ``random``."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.random = torch.Generator(device).manual_seed(seed)

    def share(self, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(shape, generator=self.random, device=self.device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high)."""
        return low + (high - low) * self.share(*shape)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Log-uniform in [low, high)."""
        return low * (high / low) ** self.share(*shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self.random, device=self.device)

    def direction(self, n: int) -> Tensor:
        """Unit vectors [n, 3], uniform over the sphere."""
        return F.normalize(self.normal(n, 3), dim=1)

    def offset(self, size_mm: Tensor) -> Tensor:
        """A uniformly random point of each crop, in mm from its centre along depth, height, width, [batch, 3]."""
        return (self.share(*size_mm.shape) - 0.5) * size_mm

    def field(self, like: Tensor, cells: tuple[int, int, int]) -> Tensor:
        """A smooth random field [batch, 1, *space], standard deviation about 0.5, with ``cells`` along each axis."""
        return F.interpolate(self.normal(len(like), 1, *cells), like.shape[2:], mode="trilinear", align_corners=False)


def wide(x: Tensor) -> Tensor:
    """Reshape [batch] to [batch, 1, 1, 1, 1], which broadcasts with [batch, 1, depth, height, width]."""
    return x[:, None, None, None, None]


def position_mm(hu: Tensor, size_mm: Tensor) -> Tensor:
    """Voxel positions in mm from the crop's centre along depth, height, width: [batch, 3, depth, height, width]."""
    steps = [(torch.arange(n, device=hu.device) + 0.5) / n - 0.5 for n in hu.shape[2:]]
    return torch.stack(torch.meshgrid(*steps, indexing="ij"))[None] * size_mm[:, :, None, None, None]


def distance_to_line(position: Tensor, point: Tensor, direction: Tensor) -> Tensor:
    """Distance in mm [batch, 1, ...] of positions [batch, 3, ...] from a line with unit direction through a point."""
    offset = position - point[:, :, None, None, None]
    direction = direction[:, :, None, None, None]
    along = (offset * direction).sum(1, keepdim=True)
    return (offset - along * direction).square().sum(1, keepdim=True).sqrt()


def inside(signed_distance_mm: Tensor, edge_mm: float) -> Tensor:
    """1 inside (negative distance) and 0 outside, with an edge about ``edge_mm`` wide, as soft as a scanner's."""
    return torch.sigmoid(-signed_distance_mm * (2 / edge_mm))


def blend(hu: Tensor, mask: Tensor, value_hu: Tensor, texture: Tensor | float = 0.0) -> Tensor:
    """Replace HU by a value [batch] plus texture where the mask (share of each voxel, 0 to 1) covers them."""
    return hu + mask * (wide(value_hu) + texture - hu)
