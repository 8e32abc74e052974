"""Picture of a heat map over a scan: three planes, or a few slices, plain above and with the map in colour below."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.scans import Region, geometry
from med_transfer.scans.inspection.picture import Plane, Window, below_each_other, planes, row_image

_FOR, _AGAINST = (255, 122, 0), (0, 114, 255)  # orange and blue, which colour-blind readers can distinguish
_MAX_OPACITY = 0.75
_SLICES = 6  # with at most so many along an axis, planes across them would be streaks
_MAX_SHOWN = 3  # of such slices


@dataclass(frozen=True)
class PictureStyle:
    """File format, and height of the tallest plane at 150 pixels per inch; smaller pictures have larger letters."""

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
    """Return a PNG or JPEG with two rows: axial, coronal and sagittal plane, plain above and with the map below.

    For a scan of few slices the planes are replaced by up to three neighbouring slices, see :func:`few_slices`. Orange
    supports the class, blue opposes it; opacity is relative to the strongest value of the whole map. The picture has no
    text except the letters of the patient's sides.

    Args:
        voxels: [depth, height, width], with any axis directions.
        heat: the map on the same voxels; NaN is transparent.
        affine: affine of both, (i, j, k) to LPS mm.
        window: values shown as black and white.
        through_mm: point where the planes intersect, in LPS mm.
        region: region drawn as a box.
        style: file format and size.
    """
    shown = _shown(voxels, affine, window, region, through_mm)
    strongest = float(np.nanmax(np.abs(heat))) if np.isfinite(heat).any() else 0.0
    share = np.nan_to_num(heat / (strongest or 1.0))
    coloured = [
        replace(plane, image=_blend(plane.image, over.image))
        for plane, over in zip(shown, _shown(share, affine, (-1.0, 1.0), None, through_mm), strict=True)
    ]
    return below_each_other(
        [row_image(row, height_inches=style.height_inches) for row in (shown, coloured)], style.kind
    )


def few_slices(voxels: NDArray, affine: geometry.Affine) -> int | None:
    """Return the plane of the slices (0 axial, 1 coronal, 2 sagittal) if there are at most six, else None."""
    shape = geometry.canonical(voxels, affine)[0].shape
    return int(np.argmin(shape)) if min(shape) <= _SLICES else None


def _shown(
    voxels: NDArray, affine: geometry.Affine, window: Window, region: Region | None, through_mm: ArrayLike
) -> tuple[Plane, ...]:
    """Three planes through the point; for a scan of few slices, up to three neighbouring slices around it."""
    across = few_slices(voxels, affine)
    if across is None:
        return planes(voxels, affine, window, region, through_mm)
    voxels, affine = geometry.canonical(voxels, affine)
    axis, n = 2 - across, voxels.shape[across]  # of (i, j, k)
    point = geometry.to_index(affine, through_mm)
    first = int(np.clip(np.rint(point[axis]) - 1, 0, max(n - _MAX_SHOWN, 0)))
    shown = []
    for place in range(first, min(first + _MAX_SHOWN, n)):
        point[axis] = place
        shown.append(planes(voxels, affine, window, region, geometry.to_world_mm(affine, point))[across])
    return tuple(shown)


def _blend(grey: NDArray[np.uint8], share: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend the map over a grey image, giving RGB [row, column, 3]; ``share`` 0 .. 255 stands for -1 .. 1."""
    signed = np.clip((share.astype(np.float32) - 128) / 127, -1, 1)[..., None]
    colour = np.where(signed > 0, np.array(_FOR, np.float32), np.array(_AGAINST, np.float32))
    opacity = _MAX_OPACITY * np.abs(signed)
    return np.rint(grey[..., None] * (1 - opacity) + colour * opacity).astype(np.uint8)
