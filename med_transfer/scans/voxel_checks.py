"""Voxels that cannot be a scan, and voxels that do not look like Hounsfield units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UnusableVoxels

_INT16 = np.iinfo(np.int16)


def narrow(values: NDArray) -> NDArray:
    """int16 where that loses nothing, else float32; a value too large for it becomes infinite, and is refused later."""
    if values.dtype == np.int16:
        return values
    if values.size and np.isfinite(low := values.min()) and np.isfinite(high := values.max()):
        fits = _INT16.min <= low and high <= _INT16.max
        whole = np.issubdtype(values.dtype, np.integer) or values.dtype == bool
        if fits and (whole or np.array_equal(np.rint(values), values)):
            return values.astype(np.int16)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def require_usable(voxels: NDArray, where: object) -> None:
    """Raises UnusableVoxels for NaN, infinite or constant voxels."""
    if voxels.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(voxels)))):
        raise UnusableVoxels(
            f"{bad} of {voxels.size} voxels are NaN or infinite", where=where, expected="finite values"
        )
    low, high = voxels.min(), voxels.max()
    if low == high:
        raise UnusableVoxels(f"every voxel is {low}", where=where, expected="an image")


def hounsfield_doubt(voxels: NDArray) -> str:
    """A sentence where values cannot be a whole CT in Hounsfield units; empty where they can.

    A field of view with a patient in it has air or lung below 0 HU and soft tissue above -500 HU.
    """
    low, high = float(voxels.min()), float(voxels.max())
    if high < -500 or low > 300 or low >= 0:
        return f"values do not look like Hounsfield units (from {low:g} to {high:g})"
    return ""
