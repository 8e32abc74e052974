"""The verdict on a file that states its own grid: NIfTI, NRRD, MetaImage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from med_transfer.errors import GeometryRejected
from med_transfer.scans import geometry
from med_transfer.scans.dicom.geometry_verdict import FARTHEST_MM, MAX_SHEAR_DEGREES
from med_transfer.scans.verdict import Verdict


def grid_verdict(
    shape_ijk: Sequence[int], affine: geometry.Affine, *, channels: int = 1, is_complex: bool = False, placed: bool
) -> Verdict:
    """Reject unless the file holds one three-dimensional volume of single real values on a rectangular grid.

    Args:
        shape_ijk: voxels along each axis, the fastest first.
        affine: (i, j, k) to LPS mm.
        channels: values a voxel.
        is_complex: whether the values are complex numbers.
        placed: whether the file says where the voxels lie in the patient.
    """
    reasons = [*_shape_reasons(shape_ijk, channels), *_affine_reasons(affine), *(["complex values"] * is_complex)]
    return Verdict(rejections=tuple(reasons), placed=placed)


def _shape_reasons(shape: Sequence[int], channels: int) -> list[str]:
    size = " x ".join(str(length) for length in shape)
    if channels != 1:
        return [f"{channels} values a voxel, not one"]
    if len(shape) < 3 or min(shape[:3]) < 2:
        return [f"array of {size} is not three-dimensional"]
    if (count := int(np.prod(shape[3:]))) != 1:
        return [f"array of {size} holds {count} volumes, not one"]
    return []


def _affine_reasons(affine: geometry.Affine) -> list[str]:
    if not np.isfinite(affine).all():
        return ["voxel sizes or positions that are NaN or infinite"]
    if np.abs(affine).max() >= FARTHEST_MM:
        return [f"voxel sizes or positions beyond {FARTHEST_MM:g} mm"]
    try:
        geometry.orientation(affine)
    except GeometryRejected as error:
        return [error.found]
    shear = geometry.shear_degrees(affine)
    return [f"voxel axes are sheared by {shear:.1f} degrees"] if shear > MAX_SHEAR_DEGREES else []
