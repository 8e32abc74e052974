"""Resample slices from a tilted gantry or with uneven gaps onto a rectangular grid, in one interpolation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.scans import geometry
from med_transfer.scans.dicom.slice_geometry import usual_gap_mm

_SAME_SHARE = 1e-3  # of a voxel; smaller shifts are ignored
_MAX_GROWTH = 4  # output slices per stored slice, since a single narrow gap must not multiply the volume


def on_regular_grid(
    voxels: NDArray, affine: geometry.Affine, positions_mm: NDArray[np.float64], fill: float
) -> tuple[NDArray, geometry.Affine]:
    """Resample a scan onto a rectangular grid with evenly spaced slices.

    Each slice is shifted within its plane to undo the shear of a tilted gantry. If gaps are uneven, values are also
    interpolated between the slices at their true positions. Together this is one trilinear interpolation along the
    scanner's axes. Uneven slices get about the narrowest gap as their spacing, so that no detail is lost, but at most
    ``_MAX_GROWTH`` times as many slices. The grid is enlarged so that nothing is cut off.

    Args:
        voxels: [depth, height, width].
        affine: (i, j, k) to LPS mm; only its in-plane axes are used.
        positions_mm: LPS mm of the first voxel of each slice, in order, shape [depth, 3].
        fill: value of voxels that no slice covers.

    Returns:
        Voxels [depth, height, width], rounded if int16, and their affine.
    """
    spacing = np.array(geometry.spacing_mm(affine)[:2])
    axes = affine[:3, :2] / spacing
    normal = np.cross(axes[:, 0], axes[:, 1])
    along_mm = (positions_mm - positions_mm[0]) @ normal
    aside_ij = (positions_mm - positions_mm[0]) @ axes / spacing
    aligned, lowest = _aligned(voxels, aside_ij, fill)
    depths_mm, step_mm = _even_depths(along_mm)
    even = aligned if depths_mm is None else _between_slices(aligned, along_mm, depths_mm)
    straight = affine.copy()
    straight[:3, 2] = normal * step_mm
    straight[:3, 3] = positions_mm[0] + axes @ (lowest * spacing)
    return even, straight


def _aligned(voxels: NDArray, aside_ij: NDArray, fill: float) -> tuple[NDArray, NDArray]:
    """Shift every slice by its offset; also returns the (i, j) at which the enlarged grid starts."""
    if np.ptp(aside_ij, axis=0).max() < _SAME_SHARE:
        return voxels, np.zeros(2)
    lowest = np.floor(aside_ij.min(axis=0)).astype(int)
    extra = np.ceil(aside_ij.max(axis=0)).astype(int) - lowest
    moved = np.empty((len(voxels), voxels.shape[1] + extra[1], voxels.shape[2] + extra[0]), voxels.dtype)
    for k, offset in enumerate(aside_ij - lowest):
        moved[k] = _rounded_to(voxels.dtype, _shifted(voxels[k], offset[::-1], moved.shape[1:], fill))
    return moved, lowest


def _shifted(image: NDArray, offset_ji: NDArray, shape: tuple[int, ...], fill: float) -> NDArray:
    """Place an image on a larger canvas at a fractional offset, with bilinear interpolation."""
    (row, column), part = np.floor(offset_ji).astype(int), offset_ji - np.floor(offset_ji)
    canvas = np.full(np.add(shape, 1), fill, np.float32)  # one row and column more, for the fraction of the last ones
    canvas[row : row + image.shape[0], column : column + image.shape[1]] = image
    for axis in (0, 1):
        if part[axis] > _SAME_SHARE:
            before = np.roll(canvas, 1, axis)  # what wraps around is the last line, which is fill
            canvas = canvas + np.float32(part[axis]) * (before - canvas)
    return canvas[: shape[0], : shape[1]]


def _even_depths(along_mm: NDArray) -> tuple[NDArray | None, float]:
    """Depths in mm of evenly spaced slices, or None if the stored ones already are; and their spacing in mm."""
    gaps, extent = np.diff(along_mm), float(along_mm[-1])
    if usual_gap_mm(gaps) is not None:
        return None, extent / len(gaps)
    number = min(round(extent / float(gaps.min())), _MAX_GROWTH * len(gaps))
    return np.linspace(0.0, extent, number + 1), extent / number


def _between_slices(voxels: NDArray, along_mm: NDArray, depths_mm: NDArray) -> NDArray:
    even = np.empty((len(depths_mm), *voxels.shape[1:]), voxels.dtype)
    for k, place in enumerate(np.interp(depths_mm, along_mm, np.arange(len(along_mm)))):
        before, part = int(place), np.float32(place % 1)
        after = min(before + 1, len(voxels) - 1)
        first = voxels[before].astype(np.float32)
        even[k] = _rounded_to(voxels.dtype, first + part * (voxels[after] - first))
    return even


def _rounded_to(dtype: np.dtype, values: NDArray) -> NDArray:
    return np.rint(values).astype(dtype) if dtype == np.int16 else values
