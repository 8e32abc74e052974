"""The affine that MONAI expects, for comparing its results with ours."""

import numpy as np

from med_transfer.scans import geometry


def array_affine_ras(affine: geometry.Affine) -> geometry.Affine:
    """Array index (k, j, i) to RAS mm, of (i, j, k) to LPS mm."""
    return geometry.swap_lps_ras(np.asarray(affine, dtype=np.float64))[:, [2, 1, 0, 3]]
