"""The voxel grid on which a phantom is painted, in the anatomy's coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """Coordinates of the voxel centres in mm, ready to broadcast to [depth, height, width].

    Attributes:
        x, y, z: evenly spaced, float32 of shape [1, 1, width], [1, height, 1], [depth, 1, 1]; x points to Left, y to
            Posterior, z to Superior.
        pixel_mm, slice_mm: spacing in plane and between slices.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    z: NDArray[np.float32]
    pixel_mm: float
    slice_mm: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along depth, height, width."""
        return self.z.size, self.y.size, self.x.size

    @property
    def edge_mm(self) -> float:
        """Width in mm over which a voxel blurs an edge, averaged over directions."""
        return (self.pixel_mm + self.slice_mm) / 2

    def slab(self, start: int, stop: int) -> Grid:
        """Return the grid of slices ``start`` to ``stop - 1``."""
        return Grid(self.x, self.y, self.z[start:stop], self.pixel_mm, self.slice_mm)

    def boxes(self, low: NDArray, high: NDArray) -> list[Box | None]:
        """Return index boxes [k, j, i] of voxels between ``low`` and ``high`` [n, 3] (x, y, z mm); None if empty."""
        first = np.array([self.x.flat[0], self.y.flat[0], self.z.flat[0]], dtype=float)
        step = np.array([self.pixel_mm, self.pixel_mm, self.slice_mm])
        size = np.array(self.shape[::-1])
        start = np.clip(np.ceil((low - first) / step).astype(int), 0, size)
        stop = np.clip(np.floor((high - first) / step).astype(int) + 1, 0, size)
        hit = np.all(stop > start, axis=1)
        return [
            (slice(a[2], b[2]), slice(a[1], b[1]), slice(a[0], b[0])) if h else None
            for a, b, h in zip(start.tolist(), stop.tolist(), hit, strict=True)
        ]


def centred_grid(shape: tuple[int, int, int], pixel_mm: float, slice_mm: float, centre_mm: NDArray) -> Grid:
    """Return a grid of ``shape`` (depth, height, width) centred at ``centre_mm`` (x, y, z)."""

    def axis(size: int, step: float, centre: float) -> NDArray[np.float32]:
        return ((np.arange(size) - (size - 1) / 2) * step + centre).astype(np.float32)

    depth, height, width = shape
    return Grid(
        axis(width, pixel_mm, centre_mm[0])[None, None, :],
        axis(height, pixel_mm, centre_mm[1])[None, :, None],
        axis(depth, slice_mm, centre_mm[2])[:, None, None],
        pixel_mm,
        slice_mm,
    )
