"""A heat map over a scan: three planes, or its few slices, as they are, and below the same with the map in colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.scans import Region, geometry
from med_transfer.scans.inspection.picture import Plane, Window, below_each_other, planes, side_by_side

_FOR, _AGAINST = (255, 122, 0), (0, 114, 255)  # orange and blue are told apart by colour-blind readers too
_MOST_OPAQUE = 0.75
_SLICES = 6  # or fewer along an axis: planes across them would be streaks
_MOST_SHOWN = 3  # of these


@dataclass(frozen=True)
class PictureStyle:
    """Kind of file, and height of the tallest plane at 150 pixels an inch; lower planes have larger letters."""

    kind: Literal["png", "jpeg"] = "png"
    height_inches: float = 2.4


def heat_picture(
    voxels: NDArray,
    heat: NDArray[np.floating],
    affine: geometry.Affine,
    window: Window,
    through_mm: ArrayLike,
    *,
    region: Region | None = None,
    style: PictureStyle = PictureStyle(),
) -> bytes:
    """PNG or JPEG of two rows: axial, coronal and sagittal plane, plain above and with the map below.

    Of a scan of few slices up to three neighbouring slices take the place of the planes, see :func:`few_slices`.
    Orange speaks for the class, blue against it; the strongest value of the whole map is the most opaque. Holds no
    text but the letters of the patient's sides.

    Args:
        voxels: [depth, height, width], stored in any direction.
        heat: the map on the same voxels; NaN is shown as nothing.
        affine: of both, (i, j, k) to LPS mm.
        window: the values shown black and white.
        through_mm: the point where the planes meet, LPS mm.
        region: drawn as a box.
        style: kind of file and size.
    """
    shown = _shown(voxels, affine, window, region, through_mm)
    strongest = float(np.nanmax(np.abs(heat))) if np.isfinite(heat).any() else 0.0
    share = np.nan_to_num(heat / (strongest or 1.0))
    coloured = [
        replace(plane, image=_blend(plane.image, over.image))
        for plane, over in zip(shown, _shown(share, affine, (-1.0, 1.0), None, through_mm), strict=True)
    ]
    return below_each_other(
        [side_by_side(row, height_inches=style.height_inches) for row in (shown, coloured)], style.kind
    )


def few_slices(voxels: NDArray, affine: geometry.Affine) -> int | None:
    """Which plane the slices lie in, 0 axial, 1 coronal, 2 sagittal, where there are at most six; None of more."""
    shape = geometry.canonical(voxels, affine)[0].shape
    return int(np.argmin(shape)) if min(shape) <= _SLICES else None


def _shown(
    voxels: NDArray, affine: geometry.Affine, window: Window, region: Region | None, through_mm: ArrayLike
) -> tuple[Plane, ...]:
    """Three planes; of few slices up to three of them, from the lowest, the one through the point among them."""
    across = few_slices(voxels, affine)
    if across is None:
        return planes(voxels, affine, window, region, through_mm)
    voxels, affine = geometry.canonical(voxels, affine)
    axis, n = 2 - across, voxels.shape[across]  # of (i, j, k)
    point = geometry.to_index(affine, through_mm)
    first = int(np.clip(np.rint(point[axis]) - 1, 0, max(n - _MOST_SHOWN, 0)))
    shown = []
    for place in range(first, min(first + _MOST_SHOWN, n)):
        point[axis] = place
        shown.append(planes(voxels, affine, window, region, geometry.to_world_mm(affine, point))[across])
    return tuple(shown)


def _blend(grey: NDArray[np.uint8], share: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB [row, column, 3]; a share of 0 is -1, one of 255 is 1."""
    signed = np.clip((share.astype(np.float32) - 128) / 127, -1, 1)[..., None]
    colour = np.where(signed > 0, np.array(_FOR, np.float32), np.array(_AGAINST, np.float32))
    opacity = _MOST_OPAQUE * np.abs(signed)
    return np.rint(grey[..., None] * (1 - opacity) + colour * opacity).astype(np.uint8)
