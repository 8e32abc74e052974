"""Where DICOM slices lie: their order, their affine, and the steps between them."""

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
    """In order of position along the most frequent normal; by path where the geometry is missing."""
    if not all(s.position_mm and s.orientation for s in slices):
        return tuple(sorted(slices, key=lambda s: s.path))
    along = normal(commonest([tuple(round(cosine, 2) for cosine in s.orientation) for s in slices]))
    return tuple(sorted(slices, key=lambda s: (round(float(along @ np.array(s.position_mm)), 4), s.path)))


def affine_of(slices: Sequence[Slice]) -> geometry.Affine:
    """(i, j, k) to LPS mm of slices in order (DICOM PS3.3 C.7.6.2.1.1); between slices, the mean step."""
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
    """Whether two slices lie at one place and in one direction; false where a file does not say."""
    if not all((first.position_mm, second.position_mm, first.orientation, second.orientation)):
        return False
    apart_mm = np.linalg.norm(np.subtract(first.position_mm, second.position_mm))
    turned = np.abs(np.subtract(first.orientation, second.orientation)).max()
    return bool(apart_mm < SAME_POSITION_MM and turned <= COSINE_TOLERANCE)


def tolerance_mm(spacing: float) -> float:
    """How far a gap between slices may be from the usual one and still count as even.

    Never as much as a missing slice, however thin the slices are (micro-CT).
    """
    return min(max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE_SHARE * spacing), spacing / 4)


def usual_gap_mm(gaps_mm: NDArray[np.float64]) -> float | None:
    """The gap that all gaps equal within tolerance; None where they are uneven."""
    usual = float(np.sort(gaps_mm)[(len(gaps_mm) - 1) // 2])
    return usual if np.all(np.abs(gaps_mm - usual) <= tolerance_mm(usual)) else None


def steps(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """From each slice to the next, LPS mm, shape [slices - 1, 3]."""
    return np.diff(np.array([s.position_mm for s in slices]), axis=0)


def normal(orientation: Sequence[float]) -> NDArray[np.float64]:
    """Unit vector across a slice, from its row and column cosines; zeros where they span no plane."""
    with np.errstate(over="ignore", invalid="ignore"):  # cosines of 1e308 are none: see is_plane
        cross = np.cross(orientation[:3], orientation[3:])
        length = np.linalg.norm(cross)
    return cross / length if 0 < length < np.inf else np.zeros(3)


def is_plane(orientation: Sequence[float], tolerance: float = COSINE_TOLERANCE) -> bool:
    """Whether row and column cosines are two perpendicular unit vectors."""
    pair = np.array(orientation).reshape(2, 3)
    return bool(np.abs(pair).max() < 2 and np.allclose(pair @ pair.T, np.eye(2), atol=tolerance))


def commonest(values: Sequence[_Value]) -> _Value:
    """The most frequent value; among equals the smallest, so that the order on disk does not matter."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], repr(value)))
