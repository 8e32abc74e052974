"""Positions of the frames of a DICOM SEG in the patient, and the grid that they form (PS3.3 C.7.6.16.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from med_transfer.errors import GeometryRejected, UnreadableScan
from med_transfer.errors.sentence import Sentence
from med_transfer.scans import geometry
from med_transfer.scans.dicom.geometry_verdict import PIXEL_SPACING_TOLERANCE_MM
from med_transfer.scans.dicom.slice_geometry import COSINE_TOLERANCE, SAME_POSITION_MM, tolerance_mm
from med_transfer.scans.masks.region_object import FARTHEST_MM

_MAX_SLICES = 10_000  # of a grid; frames spread over more are placed one by one
_THIN_MM = 0.01  # thickness of a frame that does not state it


@dataclass(frozen=True)
class Frame:
    """Geometry of one frame.

    Attributes:
        index: of the frame in PixelData, from 0.
        segment: ReferencedSegmentNumber; None in a label map, whose frames show every segment.
        position_mm: ImagePositionPatient, the centre of the first voxel (LPS).
        cosines: ImageOrientationPatient, row then column cosines (LPS).
        spacing_mm: PixelSpacing, (between rows, between columns).
        thickness_mm, slice_spacing_mm: SliceThickness and SpacingBetweenSlices, 0 if not given.
    """

    index: int
    segment: int | None
    position_mm: NDArray[np.float64]
    cosines: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    thickness_mm: float
    slice_spacing_mm: float

    @property
    def across(self) -> NDArray[np.float64]:
        """Unit normal of the frame (LPS), in the direction in which slices are counted."""
        return np.cross(self.cosines[:3], self.cosines[3:])

    def affine(self, step_mm: NDArray[np.float64]) -> geometry.Affine:
        """Affine (i, j, k) to LPS mm of a volume that starts at this frame, with ``step_mm`` between slices."""
        affine = np.eye(4)
        affine[:3, 0] = self.cosines[:3] * self.spacing_mm[1]
        affine[:3, 1] = self.cosines[3:] * self.spacing_mm[0]
        affine[:3, 2], affine[:3, 3] = step_mm, self.position_mm
        return affine


def frames_of(dataset: Dataset, path: Path, step_mm: float = 0.0) -> list[Frame]:
    """The geometry of every frame, in stored order.

    Args:
        dataset: the object.
        path: its file.
        step_mm: spacing between slices, where a frame states none; 0 if unknown.

    Raises:
        GeometryRejected: a frame without a position in the patient (a slide, for example).
        UnreadableScan: the number of frames declared is not that described.
    """
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    declared = int(dataset.get("NumberOfFrames") or 1)
    if len(own) != declared:
        raise UnreadableScan(
            Sentence("{declared} frames declared, {n} described", declared=declared, n=len(own)), where=path
        )
    is_labelmap = dataset.SegmentationType == "LABELMAP"
    frames = [_frame(index, group, shared, is_labelmap, path) for index, group in enumerate(own)]
    return [replace(frame, slice_spacing_mm=frame.slice_spacing_mm or step_mm) for frame in frames]


def _frame(index: int, own: Dataset, shared: Dataset, is_labelmap: bool, path: Path) -> Frame:
    def macro(keyword: str) -> Dataset:
        return (own.get(keyword) or shared.get(keyword) or [Dataset()])[0]

    measures = macro("PixelMeasuresSequence")
    cosines = np.array(macro("PlaneOrientationSequence").get("ImageOrientationPatient") or [], dtype=float)
    position = np.array(macro("PlanePositionSequence").get("ImagePositionPatient") or [], dtype=float)
    spacing = np.array(measures.get("PixelSpacing") or [], dtype=float)
    complete = (cosines.size, position.size, spacing.size) == (6, 3, 2)
    values = np.array([*cosines, *position, *spacing])
    if not (complete and (np.abs(values) < FARTHEST_MM).all() and (spacing > 0).all()):
        raise GeometryRejected(
            Sentence("frame {index} has no place in the patient", index=index + 1),
            where=path,
            expected="position, orientation and pixel spacing in the functional groups",
        )
    if not np.allclose(cosines.reshape(2, 3) @ cosines.reshape(2, 3).T, np.eye(2), atol=COSINE_TOLERANCE):
        raise GeometryRejected(Sentence("frame {index} is not rectangular", index=index + 1), where=path)
    return Frame(
        index=index,
        segment=None if is_labelmap else int(macro("SegmentIdentificationSequence").ReferencedSegmentNumber),
        position_mm=position,
        cosines=cosines,
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        thickness_mm=_length(measures, "SliceThickness"),
        slice_spacing_mm=_length(measures, "SpacingBetweenSlices"),
    )


def _length(measures: Dataset, keyword: str) -> float:
    value = float(measures.get(keyword) or 0.0)
    return value if np.isfinite(value) and value > 0 else 0.0


def grid_of(frames: Sequence[Frame]) -> tuple[geometry.Affine, list[int]] | None:
    """The affine of the regular grid that fits every frame, and each frame's slice index; None if there is none."""
    first = frames[0]
    for other in frames:
        turned = np.abs(other.cosines - first.cosines).max()
        if turned > COSINE_TOLERANCE or not np.allclose(
            other.spacing_mm, first.spacing_mm, rtol=0, atol=PIXEL_SPACING_TOLERANCE_MM
        ):
            return None
    along = np.array([frame.position_mm for frame in frames]) @ first.across
    lowest = frames[int(along.argmin())]
    for spacing in _spacings(lowest, _gaps(along)):
        if np.ptp(along) > _MAX_SLICES * spacing:
            continue
        steps = np.rint((along - along.min()) / spacing).astype(int)
        if (step := _step_mm(frames, lowest, steps, spacing)) is not None:
            return lowest.affine(step), steps.tolist()
    return None


def _gaps(along: NDArray[np.float64]) -> NDArray[np.float64]:
    gaps = np.diff(np.sort(along))
    return gaps[gaps > SAME_POSITION_MM]


def _spacings(frame: Frame, gaps: NDArray[np.float64]) -> list[float]:
    """Spacings in mm to try: the declared one, the slice thickness (as slices may be left out), the smallest gap.

    A value above the smallest gap is the thickness of overlapping slices, not a spacing.
    """
    least = [float(gaps.min())] if gaps.size else []
    tried = [frame.slice_spacing_mm, frame.thickness_mm, *least]
    return [mm for mm in tried if mm > 0 and (not least or mm <= least[0] + tolerance_mm(mm))]


def _step_mm(
    frames: Sequence[Frame], lowest: Frame, steps: NDArray[np.int_], spacing: float
) -> NDArray[np.float64] | None:
    """Vector from slice to slice in LPS mm, fitted to all frames; None if a frame does not fit."""
    positions = np.array([frame.position_mm for frame in frames]) - lowest.position_mm
    step = steps @ positions / (steps @ steps) if steps.any() else lowest.across * spacing
    off = np.linalg.norm(positions - np.outer(steps, step), axis=1)
    return step if off.max() <= tolerance_mm(spacing) else None


def slab_mm(frame: Frame, frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Vector across a frame in LPS mm: as long as it is thick, but not longer than the distance to the next frame."""
    across = frame.across
    distances_mm = np.abs([(other.position_mm - frame.position_mm) @ across for other in frames])
    thickness = frame.thickness_mm or frame.slice_spacing_mm or _THIN_MM
    return across * min(thickness, distances_mm[distances_mm > SAME_POSITION_MM].min(initial=thickness))
