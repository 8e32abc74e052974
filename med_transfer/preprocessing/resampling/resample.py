"""Resample a scan onto a grid by linear interpolation, with an anti-aliasing low-pass if the grid is coarser.

A voxel axis that is parallel to an axis of the grid is resampled separately: interpolation and low-pass are one sparse
matrix, and such axes are processed in memory order (`separable`). In most scans all three axes are parallel. The others
are oblique (a rotated patient, a tilted gantry): the low-pass still runs along the voxel axes, and SimpleITK
interpolates (`oblique`).

The low-pass is that of scikit-image's ``resize``: a Gaussian with sigma (ratio - 1) / 2 input voxels, where ratio is
the output voxel size over the input voxel size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.preprocessing.resampling.oblique import resample_oblique
from med_transfer.preprocessing.resampling.separable import MIN_SIGMA, AxisWeights, axis_weights, resample_axes
from med_transfer.scans import geometry
from med_transfer.scans.geometry import Grid, IndexMap, Triple, index_map, voxel_ratio

_PARALLEL_VOXELS = 1e-4  # largest deviation over the whole grid of axes that count as parallel


def resample(
    voxels: NDArray,
    affine: geometry.Affine,
    grid: Grid,
    *,
    outside: float | Literal["edge"] = "edge",
    antialias: bool = True,
) -> NDArray[np.float32]:
    """Interpolate a scan linearly at the grid's voxels; float32 of ``grid.shape``.

    Only voxels that the grid needs are read; if the axes are parallel, int16 is never converted as a whole.

    Args:
        voxels: [depth, height, width], int16 or float32, finite; any memory layout.
        affine: voxel index (i, j, k) to LPS mm; axes may be sheared.
        grid: the output grid.
        outside: value beyond the centres of the outermost voxels; ``edge`` repeats those voxels.
        antialias: apply a low-pass along the scan's axes for which the grid is coarser.
    """
    fill = None if outside == "edge" else float(outside)
    where = index_map(affine, grid)
    sigma = (voxel_ratio(affine, grid) - 1) / 2 if antialias else np.zeros(3)
    alone = _axes_alone(where, grid.shape)
    if len(alone) < 3 and (sigma < MIN_SIGMA).all():
        alone = {}  # without low-pass, ITK alone is faster than an extra pass for one or two axes
    axes, where = _split(where, alone, grid.shape, voxels.shape, sigma, clamp=fill is None)
    if len(alone) == 3:
        order = np.argsort([alone[axis] for axis in range(3)])
        return np.ascontiguousarray(resample_axes(voxels, axes, fill or 0.0).transpose(order))
    if all(axis.picks_all for axis in axes):
        voxels = voxels[tuple(axis.touched for axis in axes)]
    else:
        voxels = resample_axes(voxels, axes, fill or 0.0)
    return resample_oblique(voxels, where, grid.shape, fill)


def _axes_alone(where: IndexMap, shape: Triple) -> dict[int, int]:
    """Input axes that depend only on one output axis, on which no other depends; as input axis to output axis."""
    travel = np.abs(where.matrix) * np.maximum(np.array(shape) - 1, 0)  # voxels along input axis (row) over the grid
    partner = np.abs(where.matrix).argmax(axis=1)
    parallel = travel < _PARALLEL_VOXELS
    alone = {}
    for axis, along in enumerate(partner):
        others_of_axis, others_of_along = np.delete(parallel[axis], along), np.delete(parallel[:, along], axis)
        if others_of_axis.all() and others_of_along.all() and np.count_nonzero(partner == along) == 1:
            alone[axis] = int(along)
    return alone


def _split(
    where: IndexMap, alone: dict[int, int], shape: Triple, size: tuple[int, ...], sigma: NDArray, *, clamp: bool
) -> tuple[list[AxisWeights], IndexMap]:
    """Weights along each input axis, and the map from output indices to those of the scan after these weights.

    Separable axes are resampled to their final voxels; the others are low-passed at every voxel that the grid needs.
    """
    matrix, offset, axes = where.matrix.copy(), where.offset.copy(), []
    middle, reach = (np.array(shape) - 1) / 2, np.abs(where.matrix) @ (np.array(shape) - 1) / 2
    for axis in range(3):
        centre = where.matrix[axis] @ middle + where.offset[axis]
        if axis in alone:
            along = alone[axis]
            positions = centre + where.matrix[axis, along] * (np.arange(shape[along]) - middle[along])
            matrix[axis], offset[axis] = np.eye(3)[along], 0.0
            axes.append(axis_weights(positions, size[axis], sigma[axis], clamp=clamp))
        else:
            first, last = np.clip(_whole(centre - reach[axis], centre + reach[axis]), 0, size[axis] - 1)
            offset[axis] -= first
            axes.append(axis_weights(np.arange(first, last + 1.0), size[axis], sigma[axis], clamp=True))
    return axes, IndexMap(matrix, offset)


def _whole(low: float, high: float) -> tuple[int, int]:
    return int(np.floor(low)), int(np.ceil(high))
