"""Voxels that cannot be a scan."""

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


def require_finite(voxels: NDArray, where: object) -> None:
    """Raises UnusableVoxels for NaN or infinite voxels."""
    if voxels.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(voxels)))):
        raise UnusableVoxels(
            f"{bad} of {voxels.size} voxels are NaN or infinite", where=where, expected="finite values"
        )


def require_usable(voxels: NDArray, where: object) -> None:
    """Raises UnusableVoxels for NaN, infinite or constant voxels."""
    require_finite(voxels, where)
    first = voxels[0, 0, 0]
    if (voxels[::8, ::8, ::8] == first).all() and (voxels == first).all():  # a sample of most scans is proof enough
        raise UnusableVoxels(f"every voxel is {first}", where=where, expected="an image")
