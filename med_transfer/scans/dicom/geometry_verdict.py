"""Check from headers whether slices form one regular volume; reasons name slices and distances in mm.

Slices are numbered along the normal, from 1. The constants below define what counts as regular.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence, few
from med_transfer.scans import geometry
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.dicom.sentences import counted, mixed
from med_transfer.scans.dicom.slice_geometry import (
    COSINE_TOLERANCE,
    SAME_POSITION_MM,
    affine_of,
    commonest,
    gaps_mm,
    is_plane,
    normal,
    steps,
    tolerance_mm,
    usual_gap_mm,
)
from med_transfer.scans.verdict import FARTHEST_MM, MAX_SHEAR_DEGREES, VOXEL_MM, Repair, Verdict

MIN_SLICES = 3  # two slices have a single gap, which no other gap confirms
PIXEL_SPACING_TOLERANCE_MM = 1e-3
MAX_DRIFT_SHARE = 0.25  # of the spacing: how far a slice may be from its position by the affine
_Check = Callable[[Sequence[Slice]], str]  # a reason, or an empty string
_Numbers = tuple[float, ...]


def slices_verdict(slices: Sequence[Slice], max_gap_mm: float = 0.0) -> Verdict:
    """Verdict on slices in order (see :func:`arrange`), without identical repeats.

    Uneven gaps are repaired by interpolation if none is wider than ``max_gap_mm``, and rejected otherwise.
    """
    rejection = _first_rejection(slices, _PLANES, (_repeats,))
    if not rejection.usable:
        return rejection
    uneven = _gaps(slices)
    if uneven and gaps_mm(slices).max() > max_gap_mm + SAME_POSITION_MM:
        return Verdict(rejections=(uneven,))
    rejection = _first_rejection(slices, (_sideways,), () if uneven else (_drift,))
    return rejection if not rejection.usable else _usable(slices, uneven)


def _first_rejection(slices: Sequence[Slice], *stages: tuple[_Check, ...]) -> Verdict:
    """The reasons of the first stage that finds any; each stage relies on the ones before."""
    for stage in stages:
        reasons = tuple(reason for check in stage if (reason := check(slices)))
        if reasons:
            return Verdict(rejections=reasons)
    return Verdict()


# Geometry of each image ---------------------------------------------------------------------------------------


def _too_few(slices: Sequence[Slice]) -> str:
    if len(slices) >= MIN_SLICES:
        return ""
    return Sentence("{slices}, fewer than {least}", slices=counted(len(slices)), least=MIN_SLICES)


def _missing(slices: Sequence[Slice]) -> str:
    lacking = [
        keyword
        for keyword, values in (
            ("ImagePositionPatient", [s.position_mm for s in slices]),
            ("ImageOrientationPatient", [s.orientation for s in slices]),
            ("PixelSpacing", [s.spacing_mm for s in slices]),
        )
        if () in values
    ]
    return Sentence("{names} missing or unreadable", names=reduce(_and, lacking)) if lacking else ""


def _sizes(slices: Sequence[Slice]) -> str:
    return mixed(Sentence("matrix sizes"), [f"{s.columns} x {s.rows}" for s in slices])


def _pixel_spacings(slices: Sequence[Slice]) -> str:
    if not all(s.spacing_mm for s in slices):
        return ""
    if min(min(s.spacing_mm) for s in slices) <= 0:
        return Sentence("PixelSpacing is not positive")
    if min(min(s.spacing_mm) for s in slices) < VOXEL_MM[0]:
        return Sentence("pixel spacings below {least:g} mm", least=VOXEL_MM[0])
    if max(max(*s.spacing_mm, *map(abs, s.position_mm or (0.0,))) for s in slices) > FARTHEST_MM:
        return Sentence("pixel spacings or positions beyond {most:g} mm", most=FARTHEST_MM)
    reference = commonest([s.spacing_mm for s in slices])
    shown = _rounded([s.spacing_mm for s in slices], reference, PIXEL_SPACING_TOLERANCE_MM)
    return mixed(Sentence("pixel spacings"), [f"{row:.4g} x {column:.4g} mm" for row, column in shown])


def _orientations(slices: Sequence[Slice]) -> str:
    if not all(s.orientation for s in slices):
        return ""
    if not all(map(is_plane, {s.orientation for s in slices})):
        return Sentence("ImageOrientationPatient is not two perpendicular unit vectors")
    reference = commonest([s.orientation for s in slices])
    shown = _rounded([s.orientation for s in slices], reference, COSINE_TOLERANCE)
    return mixed(Sentence("orientations"), [f"({' '.join(f'{c:.3g}' for c in cosines)})" for cosines in shown])


def _rounded(values: Sequence[_Numbers], reference: _Numbers, tolerance: float) -> list[_Numbers]:
    """Replace values that equal the reference within tolerance by the reference."""
    near = {value for value in set(values) if np.abs(np.subtract(value, reference)).max() <= tolerance}
    return [reference if value in near else value for value in values]


def _frames_of_reference(slices: Sequence[Slice]) -> str:
    several = len({s.frame_of_reference for s in slices if s.frame_of_reference}) > 1
    if not several or one_frame_of_reference_each(slices):
        return ""
    return Sentence("several frames of reference, so that positions cannot be compared")


def one_frame_of_reference_each(slices: Sequence[Slice]) -> bool:
    """Whether every image has its own FrameOfReferenceUID, which faulty software writes and is then ignored."""
    return len({s.frame_of_reference for s in slices} - {""}) == len(slices) > 1


def _frame_of_reference_each(slices: Sequence[Slice]) -> str:
    each = one_frame_of_reference_each(slices)
    return Sentence("each image names its own frame of reference, which is ignored") if each else ""


# Spacing of the images ----------------------------------------------------------------------------------------


def _repeats(slices: Sequence[Slice]) -> str:
    gaps = gaps_mm(slices)
    repeated = [n for n, gap in enumerate(gaps, 1) if abs(gap) < SAME_POSITION_MM]
    if not repeated:
        return ""
    places = np.diff(np.flatnonzero(np.abs(np.concatenate([[np.inf], gaps, [np.inf]])) >= SAME_POSITION_MM))
    if len(places) > 1 and len(set(places)) == 1:
        several = Sentence("{n} at each of {places} places", n=places[0], places=len(places))
        return Sentence(
            "different images at one position: {several}; volumes (times, echoes ...) that nothing tells apart",
            several=several,
        )
    pairs = few([Sentence("{first} and {second}", first=n, second=n + 1) for n in repeated])
    return Sentence(
        "different images at one position: slices {pairs}; the series may hold several acquisitions", pairs=pairs
    )


def _gaps(slices: Sequence[Slice]) -> str:
    gaps = gaps_mm(slices)
    if usual_gap_mm(gaps) is not None:
        return ""
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    return _missing_slices(gaps, usual) or Sentence("uneven gaps: {gaps}", gaps=_runs(gaps))


def _missing_slices(gaps: NDArray[np.float64], usual: float) -> str:
    multiples = np.rint(gaps / usual).astype(int)
    whole = np.abs(gaps - multiples * usual) <= tolerance_mm(usual) * np.maximum(multiples, 1)
    if not (whole.all() and multiples.min() == 1):
        return ""
    wide = [n for n, multiple in enumerate(multiples, 1) if multiple > 1]
    wide_gaps = few([_between(f"{gaps[n - 1]:.2f} mm", n) for n in wide])
    missing = int(multiples.sum() - len(multiples))
    return Sentence(
        "{missing} missing: gap {wide}, others {usual:.2f} mm", missing=counted(missing), wide=wide_gaps, usual=usual
    )


def _runs(gaps: NDArray[np.float64]) -> str:
    runs, start = [], 1
    for gap, run in groupby(f"{gap:.2f} mm" for gap in gaps):
        end = start + len(list(run))
        alone = end == start + 1
        runs.append(
            _between(gap, start) if alone else Sentence("{gap} from {start} to {end}", gap=gap, start=start, end=end)
        )
        start = end
    return few(runs)


def _between(gap: str, first: int) -> Sentence:
    return Sentence("{gap} between slices {first} and {second}", gap=gap, first=first, second=first + 1)


def _and(first: str, second: str) -> Sentence:
    return Sentence("{first} and {second}", first=first, second=second)


def _sideways(slices: Sequence[Slice]) -> str:
    """In-plane shifts that are not proportional to the gaps, as they would be for a tilted gantry."""
    moves = steps(slices)
    along = normal(slices[0].orientation)
    gaps = moves @ along
    aside = moves - np.outer(gaps, along)
    tilt = np.median(aside / gaps[:, None], axis=0)
    off = np.linalg.norm(aside - np.outer(gaps, tilt), axis=1)
    worst = int(off.argmax())
    if off[worst] <= tolerance_mm(float(np.median(gaps))):
        return ""
    return Sentence(
        "slices shift sideways unevenly: {off:.2f} mm between slices {slice} and {next}",
        off=off[worst],
        slice=worst + 1,
        next=worst + 2,
    )


def _drift(slices: Sequence[Slice]) -> str:
    """Small deviations that add up until a slice is far from its position by the mean step."""
    positions = np.array([s.position_mm for s in slices])
    line = np.linspace(positions[0], positions[-1], len(slices))
    off = np.linalg.norm(positions - line, axis=1)
    worst = int(off.argmax())
    spacing = float(np.linalg.norm(line[1] - line[0]))
    if off[worst] <= MAX_DRIFT_SHARE * spacing:
        return ""
    return Sentence(
        "spacing drifts: slice {slice} lies {off:.2f} mm from its place in a regular volume",
        slice=worst + 1,
        off=off[worst],
    )


def _usable(slices: Sequence[Slice], uneven: str) -> Verdict:
    remarks = tuple(remark for check in (_declared_tilt_only, _frame_of_reference_each) if (remark := check(slices)))
    repairs = []
    if uneven:
        reason = Sentence("{uneven}: interpolated between the true positions", uneven=uneven)
        repairs.append(Repair("uneven_gaps", reason))
    if tilt := _tilt(slices):
        repairs.append(Repair("gantry_tilt", tilt))
    return Verdict(repairs=tuple(repairs), remarks=remarks)


def _tilt(slices: Sequence[Slice]) -> str:
    shear = geometry.shear_degrees(affine_of(slices))
    if shear <= MAX_SHEAR_DEGREES:
        return ""
    declared = abs(slices[0].tilt_degrees)
    header = Sentence("the header declares none")
    if declared:
        header = Sentence("the header declares {declared:.1f}", declared=declared)
    return Sentence(
        "positions show a gantry tilt of {shear:.1f} degrees ({header}): slices moved onto a rectangular grid",
        shear=shear,
        header=header,
    )


def _declared_tilt_only(slices: Sequence[Slice]) -> str:
    declared = abs(slices[0].tilt_degrees)
    if declared <= MAX_SHEAR_DEGREES or _tilt(slices):
        return ""
    return Sentence(
        "the header declares a gantry tilt of {declared:.1f} degrees, the positions show none", declared=declared
    )


_PLANES: tuple[_Check, ...] = (_too_few, _missing, _sizes, _pixel_spacings, _orientations, _frames_of_reference)
