"""Read one region of a DICOM RTSTRUCT by filling its contours on the slices of the scan (PS3.3 C.8.8.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from skimage.measure import grid_points_in_poly

from med_transfer.errors import GeometryRejected, UnreadableScan, UnusableVoxels
from med_transfer.errors.sentence import Sentence
from med_transfer.scans import geometry
from med_transfer.scans.dicom.sentences import counted
from med_transfer.scans.masks.mask_placement import mark_voxels, require_inside, require_same_frame
from med_transfer.scans.masks.region_object import FARTHEST_MM, damage_reported, load_object, pick, provenance_of
from med_transfer.scans.verdict import Verdict
from med_transfer.scans.volume import Volume

FILLED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
POINT = "POINT"
_PLANE_SHARE = 0.1  # of the slice spacing: largest extent of one contour across slices
_MIN_PLANE_MM = 0.05  # coordinates are stored as text with few digits
_TIE_SHARE = 1e-3  # of the slice spacing: rounding error of positions halfway between slices
_DECIMALS = 3  # of pixel coordinates; keeps a contour through pixel centres exactly there
_BEYOND_PIXELS = (0.5, 0.5)  # how far the outline of a whole image may extend beyond it
_BAND_ROWS = 8
_INSIDE, _ON_CONTOUR = 1, 2  # scikit-image's labels; 3 (on an edge) is treated like 2 (on a vertex)


@dataclass(frozen=True)
class _Contour:
    """A contour: its name in messages, its ContourGeometricType, and its points as voxel indices (i, j, k), [n, 3]."""

    label: str
    kind: str
    index: NDArray[np.float64]

    @property
    def slice_index(self) -> float:
        return float(self.index[:, 2].mean())


@dataclass(frozen=True)
class _Plane:
    """Contours drawn in one plane, and its fractional slice index in the scan."""

    slice_index: float
    contours: tuple[_Contour, ...]


def read_structure_set(path: Path, onto: Volume, name: str) -> Volume:
    """Read one region as bool voxels on the grid of ``onto``.

    A voxel belongs to the region if its centre lies inside or on a contour. Contours of one plane are combined by
    exclusive or, so that one within another is a hole; keyholes work, too. A plane between slices is assigned to the
    nearest slice, and of several planes at one slice the nearest counts. If contours were drawn on every second,
    third ... slice throughout, or on thicker slices, the slices between take the nearer plane. A POINT marks its voxel.

    Args:
        path: the file.
        onto: the scan.
        name: ROIName or ROINumber; may be empty if there is only one region.

    Raises:
        AmbiguousScan, ScanNotFound: see :func:`~med_transfer.scans.masks.region_object.pick`.
        GeometryRejected: another frame of reference; contours that are open, not planar, or not on a slice of the scan.
        UnreadableScan: the object is damaged or truncated.
        UnusableVoxels: no region, or a region without contours.
    """
    dataset = load_object(path)
    with damage_reported(path):
        rois = [(int(item.ROINumber), str(item.get("ROIName") or "")) for item in dataset.StructureSetROISequence]
        number = pick(rois, name, "ROI", path)
        label = f"ROI {dict(rois)[number] or number}"
        provenance = provenance_of(dataset, path, "RTSTRUCT", _frame_of_reference(dataset, number))
        require_same_frame(provenance, onto.provenance)
        contours = list(_contours(dataset, number, label, onto, path))
    if not contours:
        raise UnusableVoxels(Sentence("{label} has no contours", label=label), where=path)
    for contour in contours:
        _require_on_a_slice(contour, onto, path)
    voxels, remarks = _drawn(contours, onto)
    if remarks and any(repair.kind == "uneven_gaps" for repair in onto.verdict.repairs):
        raise GeometryRejected(
            Sentence("{label} has no contours on slices that were interpolated between uneven ones", label=label),
            where=path,
            expected="a mask or a SEG, which says how thick its slices are",
        )
    return Volume(voxels, onto.affine, provenance, Verdict(remarks=remarks))


def _frame_of_reference(dataset: Dataset, number: int) -> str:
    roi = next(item for item in dataset.StructureSetROISequence if int(item.ROINumber) == number)
    if own := roi.get("ReferencedFrameOfReferenceUID"):
        return str(own)
    listed = {str(item.get("FrameOfReferenceUID")) for item in dataset.get("ReferencedFrameOfReferenceSequence") or []}
    return listed.pop() if len(listed) == 1 else ""


def _contours(dataset: Dataset, number: int, label: str, onto: Volume, path: Path) -> Iterator[_Contour]:
    rois = [item for item in dataset.get("ROIContourSequence") or [] if int(item.ReferencedROINumber) == number]
    items = [item for roi in rois for item in roi.get("ContourSequence") or []]
    for place, item in enumerate(items, 1):
        contour = Sentence("contour {place} of {label}", place=place, label=label)
        values = np.array(item.get("ContourData") or [], dtype=float)
        declared = int(item.get("NumberOfContourPoints") or values.size // 3)
        if not values.size or values.size != 3 * declared or not (np.abs(values) < FARTHEST_MM).all():
            found = Sentence(
                "{contour} is damaged: {size} coordinates, {declared} points declared",
                contour=contour,
                size=values.size,
                declared=declared,
            )
            raise UnreadableScan(found, where=path)
        index = geometry.to_index(onto.affine, values.reshape(-1, 3))
        yield _Contour(contour, str(item.ContourGeometricType), index)


# Position of the contours -------------------------------------------------------------------------------------


def _require_on_a_slice(contour: _Contour, onto: Volume, path: Path) -> None:
    if contour.kind not in (*FILLED, POINT):
        found = Sentence("{label} is {kind}, which fills nothing", label=contour.label, kind=contour.kind)
        expected = Sentence("{names} or {point}", names=", ".join(FILLED), point=POINT)
        raise GeometryRejected(found, where=path, expected=expected)
    spacing = onto.spacing_mm[2]
    k = contour.index[:, 2]
    if contour.kind != POINT and np.ptp(k) * spacing > max(_PLANE_SHARE * spacing, _MIN_PLANE_MM):
        raise GeometryRejected(
            _off_slice(contour, onto), where=path, expected="a planar contour along the scan's slices"
        )
    far = max(-k.min(), k.max() - (len(onto.voxels) - 1))
    if far > 0.5 + _TIE_SHARE:
        found = Sentence(
            "{label} lies {far:.1f} mm from the nearest slice of the scan",
            label=contour.label,
            far=float(far) * spacing,
        )
        raise GeometryRejected(found, where=path, expected="contours drawn on this scan")
    allowance = (*_BEYOND_PIXELS, np.inf) if contour.kind != POINT else (0.0, 0.0, np.inf)
    require_inside(geometry.to_world_mm(onto.affine, contour.index), allowance, onto, path)


def _off_slice(contour: _Contour, onto: Volume) -> Sentence:
    """Say whether a contour is not planar or lies across the slices, and by how much."""
    points = geometry.to_world_mm(onto.affine, contour.index)
    points -= points.mean(axis=0)
    across = np.linalg.eigh(points.T @ points)[1][:, 0]
    crooked_mm = float(np.abs(points @ across).max())
    if crooked_mm > _MIN_PLANE_MM:
        return Sentence(
            "{label} is not planar: its points lie up to {mm:.2f} mm off one plane", label=contour.label, mm=crooked_mm
        )
    span_mm = float(np.ptp(contour.index[:, 2])) * onto.spacing_mm[2]
    return Sentence("{label} lies across the scan's slices, over {mm:.1f} mm of them", label=contour.label, mm=span_mm)


def _planes(contours: Sequence[_Contour]) -> list[_Plane]:
    """Group contours by plane, in order. Duplicates, whatever their first point, count once: XOR would cancel them."""
    groups: list[list[_Contour]] = []
    for contour in sorted(contours, key=lambda contour: contour.slice_index):
        if not groups or contour.slice_index - groups[-1][0].slice_index > _PLANE_SHARE:
            groups.append([])
        groups[-1].append(contour)
    planes = []
    for group in groups:
        once = {_corners(contour): contour for contour in group}
        planes.append(_Plane(group[0].slice_index, tuple(once.values())))
    return planes


def _corners(contour: _Contour) -> bytes:
    return (np.unique(np.round(contour.index, _DECIMALS), axis=0) + 0.0).tobytes()  # turns -0.0 into 0.0


def _by_slice(planes: Sequence[_Plane], depth: int) -> tuple[dict[int, _Plane], tuple[str, ...]]:
    """The plane to fill in each slice, and remarks on slices without contours."""
    chosen: dict[int, _Plane] = {}
    for plane in planes:
        k = min(max(int(np.ceil(plane.slice_index - 0.5 - _TIE_SHARE)), 0), depth - 1)  # halfway: the lower slice
        if k not in chosen or abs(plane.slice_index - k) < abs(chosen[k].slice_index - k):
            chosen[k] = plane
    drawn = sorted(chosen)
    every = _plane_step([chosen[k] for k in drawn])
    between = {}
    for low, high in pairwise(drawn):
        below, above = chosen[low], chosen[high]
        if above.slice_index - below.slice_index <= every + 2 * _PLANE_SHARE:
            middle = (below.slice_index + above.slice_index) / 2 + _TIE_SHARE
            between |= {k: below if k <= middle else above for k in range(low + 1, high)}
    remarks = []
    if between:
        remarks.append(
            Sentence(
                "contours on one of {every:.3g} slices throughout: the slices between take the nearer one", every=every
            )
        )
    if empty := drawn[-1] - drawn[0] + 1 - len(drawn) - len(between):
        remarks.append(
            Sentence("no contours on {slices} between the first and the last: left empty", slices=counted(empty))
        )
    return chosen | between, tuple(remarks)


def _plane_step(planes: Sequence[_Plane]) -> float:
    """Regular distance in slices between planes with contours; 0 if there is none.

    Planes drawn on thicker slices, or on every second one, have the same distance in every part of a region. Larger
    distances are gaps between two parts.
    """
    steps = np.diff([plane.slice_index for plane in planes])
    least = float(steps.min(initial=np.inf))
    return least if np.count_nonzero(steps <= least + 2 * _PLANE_SHARE) > 1 else 0.0


# Filling ------------------------------------------------------------------------------------------------------


def _drawn(contours: Sequence[_Contour], onto: Volume) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    voxels = np.zeros(onto.voxels.shape, bool)
    closed = [contour for contour in contours if contour.kind in FILLED]
    chosen, remarks = _by_slice(_planes(closed), len(voxels)) if closed else ({}, ())
    for k, plane in chosen.items():
        voxels[k] = _filled(plane.contours, voxels.shape[1:])
    for contour in contours:
        if contour.kind == POINT:
            mark_voxels(voxels, contour.index)
    if not voxels.any():  # smaller than a pixel
        for contour in contours:
            mark_voxels(voxels, contour.index)
    return voxels, remarks


def _filled(contours: Sequence[_Contour], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Mask [rows, columns] of pixels inside an odd number of contours, or on one."""
    inside, on_contour = np.zeros(shape, bool), np.zeros(shape, bool)
    for contour in contours:
        corners = np.round(contour.index[:, 1::-1], _DECIMALS)  # row, column
        low, high = geometry.covering(corners, shape)
        if (low == high).any():
            continue  # outside the image, by less than half a pixel
        label = _labels(corners - low, high - low)
        box = slice(low[0], high[0]), slice(low[1], high[1])
        inside[box] ^= label == _INSIDE
        on_contour[box] |= label >= _ON_CONTOUR
    return inside | on_contour


def _labels(corners: NDArray[np.float64], shape: NDArray[np.int_]) -> NDArray:
    """scikit-image's labels of the pixels, computed in bands of rows, each with only the relevant vertices.

    The time grows with pixels times vertices. A stretch of the contour that stays above or below a band crosses none of
    its rows, so its first and last vertex suffice.
    """
    labels = np.zeros(tuple(shape), np.uint8)
    for start in range(0, shape[0], _BAND_ROWS):
        band = labels[start : start + _BAND_ROWS]
        side = np.digitize(corners[:, 0], (start, np.nextafter(start + len(band) - 1, np.inf)))  # 0 above, 2 below
        needed = (side == 1) | (side != np.roll(side, 1)) | (side != np.roll(side, -1))
        band[:] = grid_points_in_poly(band.shape, corners[needed] - (start, 0), binarize=False) if needed.any() else 0
    return labels
