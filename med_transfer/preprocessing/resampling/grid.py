"""Where the output voxels lie, and where each of them falls in the scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.scans import geometry

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Grid:
    """The output voxels: affine (i, j, k) to LPS mm, and how many along depth, height, width."""

    affine: geometry.Affine
    shape: Triple

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along depth, height, width."""
        width, height, depth = geometry.spacing_mm(self.affine)
        return depth, height, width


@dataclass(frozen=True)
class IndexMap:
    """Output index to input index, both in array order (k, j, i): ``input = matrix @ output + offset``."""

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]


def index_map(affine: geometry.Affine, grid: Grid) -> IndexMap:
    """Where the grid's voxels fall among the voxels of a scan with this affine."""
    composed = np.linalg.solve(affine, grid.affine).astype(np.float64)
    return IndexMap(composed[2::-1, 2::-1].copy(), composed[2::-1, 3].copy())


def voxel_ratio(affine: geometry.Affine, grid: Grid) -> NDArray[np.float64]:
    """Output voxel size over input voxel size along the input's array axes (k, j, i); at least 1.

    Where the axes are oblique to each other, an output voxel's size is that of its box along the input's axis.
    """
    spacing, output_spacing = np.array(geometry.spacing_mm(affine)), np.array(geometry.spacing_mm(grid.affine))
    cosines = np.abs((affine[:3, :3] / spacing).T @ (grid.affine[:3, :3] / output_spacing))
    return np.maximum(cosines @ output_spacing / spacing, 1.0)[::-1]
