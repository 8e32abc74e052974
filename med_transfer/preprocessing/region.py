"""Where the network looks: the region of interest of a scan when the table gives none."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage import measure

from med_transfer.scans import Region, Volume, geometry

BODY_HU = -500.0  # between lung or air and soft tissue
_COARSE_MM = 6.0  # the body's outline needs no finer grid


def whole(volume: Volume) -> Region:
    """The box around the whole scan, in LPS mm."""
    return _box(volume, np.zeros(3), np.array(volume.voxels.shape[::-1]) - 1)


def foreground(volume: Volume, above: float = BODY_HU) -> Region:
    """The box around the largest connected body of values ``above`` so much; the whole scan when there is none."""
    steps = [max(1, round(_COARSE_MM / mm)) for mm in reversed(volume.spacing_mm)]
    coarse = volume.voxels[:: steps[0], :: steps[1], :: steps[2]] > above
    parts: np.ndarray = np.asarray(measure.label(coarse, connectivity=1))  # the table is a part of its own
    if not parts.any():
        return whole(volume)
    body = np.argmax(np.bincount(parts.ravel())[1:])
    slices = ndimage.find_objects(parts)[body]
    first = np.array([s.start * step for s, step in zip(slices, steps, strict=True)])[::-1]
    last = np.array([(s.stop - 1) * step for s, step in zip(slices, steps, strict=True)])[::-1]
    return _box(volume, first, last)


def _box(volume: Volume, first_ijk: np.ndarray, last_ijk: np.ndarray) -> Region:
    """The LPS box around two opposite voxels, outer edges included."""
    steps = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    corners = [first_ijk - 0.5 + np.array(s) * (last_ijk - first_ijk + 1) for s in steps]
    points = geometry.to_world_mm(volume.affine, np.array(corners))
    low, high = points.min(axis=0), points.max(axis=0)
    x, y, z = (low + high) / 2
    width, height, depth = high - low
    return Region((float(x), float(y), float(z)), (float(width), float(height), float(depth)))
