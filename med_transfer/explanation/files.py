"""Write a map as a NIfTI file that overlays the scan in any viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.scans import geometry
from med_transfer.scans.formats.nifti_file import write_nifti_file


def write_map(path: Path, values: NDArray[np.float32], affine: geometry.Affine) -> None:
    """Write a map on the scan's voxels as ``.nii.gz``; voxels that the network did not see are 0, as overlays expect.

    Args:
        path: file to write.
        values: [depth, height, width]; NaN outside the network's input.
        affine: affine of the scan, (i, j, k) to LPS mm; stored in RAS.

    Raises:
        OutputError: the file cannot be written.
    """
    write_nifti_file(path, np.nan_to_num(values, nan=0.0).astype(np.float32), affine)
