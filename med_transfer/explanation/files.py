"""A map as a NIfTI file that lies on the scan in any viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.atomic import atomic_path
from med_transfer.scans import geometry

_SQUARE_DEGREES = 0.01


def write_map(path: Path, values: NDArray[np.float32], affine: geometry.Affine) -> None:
    """Write a map on the scan's voxels as ``.nii.gz``; what the network did not see is 0, as overlays expect.

    Args:
        path: where to.
        values: [depth, height, width]; NaN outside.
        affine: the scan's, (i, j, k) to LPS mm; stored in RAS. A qform cannot say sheared axes.

    Raises:
        OutputError: the file cannot be written.
    """
    import nibabel as nib  # slow to import

    stored = np.nan_to_num(values, nan=0.0).astype(np.float32)
    image = nib.Nifti1Image(np.ascontiguousarray(stored.transpose(2, 1, 0)), geometry.swap_lps_ras(affine))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1 if geometry.shear_degrees(affine) < _SQUARE_DEGREES else 0)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
