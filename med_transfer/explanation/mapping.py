"""Map values from the network's input grid back to the voxels of the scan."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from med_transfer.preprocessing.resampling.resample import resample
from med_transfer.scans import geometry
from med_transfer.scans.geometry import Grid, Triple, index_map


def on_scan(values: NDArray[np.float32], grid: Grid, affine: geometry.Affine, shape: Triple) -> NDArray[np.float32]:
    """Interpolate a map linearly to the scan's voxels; NaN outside the network's input.

    Args:
        values: [depth, height, width] on ``grid``.
        grid: the input grid, from :meth:`~med_transfer.preprocessing.Preprocessing.grid`.
        affine: affine of the scan, (i, j, k) to LPS mm; may be flipped, oblique or sheared.
        shape: shape of the scan, (depth, height, width).
    """
    mapped = np.full(shape, np.nan, dtype=np.float32)
    first, last = _bounding_indices(grid, affine, shape)
    if (first >= last).any():
        return mapped
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] = geometry.to_world_mm(affine, first[::-1])
    depth, height, width = (int(n) for n in last - first)
    part = Grid(moved, (depth, height, width))
    inner = mapped[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    # No low-pass filter: it prevents aliasing of fine detail in scans, and a map is smoother than its voxels.
    inner[...] = resample(values, grid.affine, part, outside="edge", antialias=False)
    _blank_outside(inner, part, grid)
    return mapped


def mask_outside_scan(values: NDArray[np.float32], grid: Grid, scan: Grid) -> NDArray[np.float32]:
    """Return a copy of a map on ``grid`` that is NaN outside the scan, where the input was padded."""
    shown = values.copy()
    _blank_outside(shown, grid, scan)
    return shown


def _bounding_indices(grid: Grid, affine: geometry.Affine, shape: Triple) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and past-the-end scan index (k, j, i) of a box around the grid."""
    edges = list(itertools.product(*[(-0.5, n - 0.5) for n in grid.shape[::-1]]))
    corners = geometry.to_index(affine, geometry.to_world_mm(grid.affine, edges))[:, ::-1]
    first = np.clip(np.floor(corners.min(axis=0)), 0, shape).astype(np.intp)
    last = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, shape).astype(np.intp)
    return first, last


def _blank_outside(values: NDArray[np.float32], place: Grid, grid: Grid) -> None:
    """Set voxels of ``place`` whose centre lies outside ``grid`` to NaN, slice by slice to save memory."""
    where, size = index_map(grid.affine, place), np.array(grid.shape)
    rows, columns = np.arange(place.shape[1])[:, None, None], np.arange(place.shape[2])[None, :, None]
    in_plane = rows * where.matrix[:, 1] + columns * where.matrix[:, 2] + where.offset
    for k, plane in enumerate(values):
        index = in_plane + k * where.matrix[:, 0]
        plane[~((index >= -0.5) & (index <= size - 0.5)).all(axis=-1)] = np.nan
