"""Write a volume as a NIfTI file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from med_transfer.atomic import atomic_path
from med_transfer.scans import geometry


def write_nifti(path: Path, voxels: NDArray, affine: geometry.Affine) -> Path:
    """Write a volume as .nii or .nii.gz, and return the path; equal arguments give equal bytes.

    Args:
        path: file to write.
        voxels: int16 HU [depth, height, width], or a boolean mask (stored as uint8).
        affine: voxel index (i, j, k) to LPS mm; stored in RAS, as qform and sform.

    Raises:
        OutputError: the file cannot be written.
    """
    stored = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    image = nib.Nifti1Image(np.ascontiguousarray(stored.transpose(2, 1, 0)), geometry.swap_lps_ras(affine))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
    return path
