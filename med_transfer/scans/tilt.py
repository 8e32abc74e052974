"""Straightens a volume whose slices step aside, as a tilted CT gantry makes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from med_transfer import geometry


def straighten(voxels: NDArray, affine: geometry.Affine, fill: float) -> tuple[NDArray, geometry.Affine]:
    """The same scan on a rectangular grid: each slice is moved within its own plane, linearly interpolated.

    No value crosses between slices, and the grid is widened so that nothing is cut off; ``fill`` is the value of
    voxels that no slice covers. int16 in gives int16 out, rounded.
    """
    spacing = np.array(geometry.spacing_mm(affine))
    axes = affine[:3, :3] / spacing
    normal = np.cross(axes[:, 0], axes[:, 1])
    aside = np.array([affine[:3, 2] @ axes[:, axis] / spacing[axis] for axis in (0, 1)])  # voxels (i, j) a slice
    offsets = np.outer(np.arange(len(voxels)), aside)
    lowest = np.floor(offsets.min(axis=0)).astype(int)
    extra = np.ceil(offsets.max(axis=0)).astype(int) - lowest
    moved = np.empty((len(voxels), voxels.shape[1] + extra[1], voxels.shape[2] + extra[0]), voxels.dtype)
    for k, offset in enumerate(offsets - lowest):
        moved[k] = _moved(voxels[k], offset, extra, fill)
    straight = affine.copy()
    straight[:3, 2] = normal * (affine[:3, 2] @ normal)
    straight[:3, 3] = geometry.to_world_mm(affine, [*lowest, 0])
    return moved, straight


def _moved(image: NDArray, offset_ij: NDArray, extra_ij: NDArray, fill: float) -> NDArray:
    wide = np.full((image.shape[0] + extra_ij[1], image.shape[1] + extra_ij[0]), fill, np.float32)
    wide[: image.shape[0], : image.shape[1]] = image
    result = ndimage.shift(wide, offset_ij[::-1], order=1, mode="constant", cval=fill)
    return np.rint(result).astype(image.dtype) if image.dtype == np.int16 else result
