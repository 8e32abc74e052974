"""Bounding box of a finding, in patient coordinates."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UnusableVoxels, UsageError
from med_transfer.errors.given_numbers import finite_numbers
from med_transfer.scans import geometry
from med_transfer.scans.volume import Volume


@dataclass(frozen=True)
class Region:
    """A box aligned with the LPS axes: its centre and full size along x, y and z in mm, and the mask it encloses.

    A size of 0 is that of a point, which only an input of fixed spacing can show.

    Raises:
        UsageError: the centre or the size is not three finite numbers, or a size is negative.
    """

    centre_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]
    mask: Volume | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not finite_numbers(self.centre_mm, 3):
            raise UsageError(
                f"found {reprlib.repr(self.centre_mm)}", where="centre_mm", expected="x, y and z in mm (LPS)"
            )
        if not finite_numbers(self.size_mm, 3) or min(self.size_mm) < 0:
            raise UsageError(
                f"found {reprlib.repr(self.size_mm)}", where="size_mm", expected="three sizes in mm, at least 0"
            )


def given_region(value: object) -> Region:
    """Return a region that a caller gave. Raises UsageError for anything but a ``Region``."""
    if not isinstance(value, Region):
        raise UsageError(
            f"found an object of type {type(value).__name__}", where="region", expected="a Region, in LPS mm"
        )
    return value


def region_of_mask(mask: Volume) -> Region:
    """Bounding box of the non-zero voxels, measured to their outer edges (half a voxel beyond their centres).

    If the mask's axes are oblique, it encloses the oblique box of those voxels.

    Raises:
        UnusableVoxels: every voxel is zero.
    """
    present = mask.voxels != 0
    if not present.any():
        raise UnusableVoxels("the mask is empty", where=mask.provenance.path, expected="at least one non-zero voxel")
    return replace(region_of_voxels(present, mask.affine), mask=mask)


def region_of_voxels(present: NDArray[np.bool_], affine: geometry.Affine) -> Region:
    """Bounding box of the true voxels of an array [depth, height, width], at least one of which must be true."""
    first, last = bounding_box(present)
    low, high = geometry.box_mm(affine, first[::-1], last[::-1])
    return Region(_triple((low + high) / 2), _triple(high - low))


def bounding_box(present: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
    """First and last index (k, j, i) of the true voxels of an array, at least one of which must be true."""
    places = [np.flatnonzero(present.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([place[0] for place in places]), np.array([place[-1] for place in places])


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
