"""Geometry of DICOM slices: their order, their affine, and the steps between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from med_transfer.scans import geometry
from med_transfer.scans.dicom.header import Slice

SAME_POSITION_MM = 0.01
SPACING_TOLERANCE_MM = 0.05
SPACING_TOLERANCE_SHARE = 0.01  # of the spacing
COSINE_TOLERANCE = 1e-3  # headers are rounded; 0.001 is 0.06 degrees
_Value = TypeVar("_Value", bound=Hashable)


def arrange(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """Sort slices by position along the most frequent normal, or by path if any geometry is missing."""
    if not all(s.position_mm and s.orientation for s in slices):
        return tuple(sorted(slices, key=lambda s: s.path))
    along = usual_normal(slices)
    return tuple(sorted(slices, key=lambda s: (round(float(along @ np.array(s.position_mm)), 4), s.path)))


def affine_of(slices: Sequence[Slice]) -> geometry.Affine:
    """Affine (i, j, k) to LPS mm of at least two sorted slices (DICOM PS3.3 C.7.6.2.1.1), with their mean step."""
    first = slices[0]
    across = np.array(first.orientation).reshape(2, 3)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    between_rows, between_columns = first.spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = across[0] * between_columns
    affine[:3, 1] = across[1] * between_rows
    affine[:3, 2] = (np.array(slices[-1].position_mm) - np.array(first.position_mm)) / (len(slices) - 1)
    affine[:3, 3] = first.position_mm
    return affine


def same_position(first: Slice, second: Slice) -> bool:
    """Whether two slices have the same position and orientation; False if a header lacks either."""
    if not all((first.position_mm, second.position_mm, first.orientation, second.orientation)):
        return False
    apart_mm = np.linalg.norm(np.subtract(first.position_mm, second.position_mm))
    turned = np.abs(np.subtract(first.orientation, second.orientation)).max()
    return bool(apart_mm < SAME_POSITION_MM and turned <= COSINE_TOLERANCE)


def tolerance_mm(spacing: float) -> float:
    """Deviation in mm from the usual gap between slices that still counts as even.

    At most a quarter of the spacing, so that a missing slice is noticed however thin the slices are (micro-CT).
    """
    return min(max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE_SHARE * spacing), spacing / 4)


def usual_gap_mm(gaps_mm: NDArray[np.float64]) -> float | None:
    """The median gap in mm if all gaps equal it within tolerance, else None."""
    usual = float(np.sort(gaps_mm)[(len(gaps_mm) - 1) // 2])
    return usual if np.all(np.abs(gaps_mm - usual) <= tolerance_mm(usual)) else None


def steps(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Vectors from each slice to the next in LPS mm, shape [slices - 1, 3]."""
    return np.diff(np.array([s.position_mm for s in slices]), axis=0)


def gaps_mm(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Distance from each slice to the next along the normal of the first, shape [slices - 1]."""
    return steps(slices) @ normal(slices[0].orientation)


def usual_normal(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Unit normal of the most frequent orientation, in which rounding makes no difference."""
    return normal(commonest([tuple(round(cosine, 2) for cosine in s.orientation) for s in slices]))


def normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    """Unit normal of a slice from its row and column cosines; zeros if they do not span a plane."""
    with np.errstate(over="ignore", invalid="ignore"):  # corrupt cosines, such as 1e308, fail is_plane
        cross = np.cross(orientation[:3], orientation[3:])
        length = np.linalg.norm(cross)
    return cross / length if 0 < length < np.inf else np.zeros(3)


def is_plane(orientation: Sequence[float], tolerance: float = COSINE_TOLERANCE) -> bool:
    """Whether row and column cosines are two perpendicular unit vectors."""
    pair = np.array(orientation).reshape(2, 3)
    return bool(np.abs(pair).max() < 2 and np.allclose(pair @ pair.T, np.eye(2), atol=tolerance))


def commonest(values: Sequence[_Value]) -> _Value:
    """The most frequent value; ties go to the first by ``repr``, so that the order on disk does not matter."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], repr(value)))
