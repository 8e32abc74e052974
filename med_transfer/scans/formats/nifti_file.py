"""Write voxels as a NIfTI file that viewers show at its position in the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.atomic import atomic_path
from med_transfer.scans import geometry

_SQUARE_DEGREES = 0.01


def write_nifti_file(path: Path, stored: NDArray, affine: geometry.Affine, slope: float | None = None) -> None:
    """Write ``.nii`` or ``.nii.gz``, in RAS.

    Args:
        path: of the file.
        stored: [depth, height, width], of a data type that NIfTI supports.
        affine: (i, j, k) to LPS mm. A qform cannot represent sheared axes and is left out for them.
        slope: scl_slope, the factor from stored numbers to values; None if they are equal.

    Raises:
        OutputError: the file cannot be written.
    """
    import nibabel as nib  # slow to import

    image = nib.Nifti1Image(np.ascontiguousarray(stored.transpose(2, 1, 0)), geometry.swap_lps_ras(affine))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1 if geometry.shear_degrees(affine) < _SQUARE_DEGREES else 0)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
