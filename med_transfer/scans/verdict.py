"""The verdict on a series: accept, repair (and how), or reject (and why)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from med_transfer.errors import GeometryRejected
from med_transfer.errors.sentence import Sentence, Text, joined
from med_transfer.scans import geometry

Decision = Literal["accept", "repair", "reject"]
RepairKind = Literal["gantry_tilt", "uneven_gaps", "repeated_slices"]
MAX_SHEAR_DEGREES = 0.5
FARTHEST_MM = 1e5  # no scanner is larger; greater values are corrupt
VOXEL_MM = (1e-3, 200.0)  # from micro-CT to localizer slices; values beyond are corrupt or in another unit
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3}
_NAMES = {
    "millimeter": "mm",
    "millimetre": "mm",
    "centimeter": "cm",
    "centimetre": "cm",
    "meter": "m",
    "metre": "m",
    "micron": "um",
    "micrometer": "um",
    "micrometre": "um",
    "\N{MICRO SIGN}m": "um",
    "\N{GREEK SMALL LETTER MU}m": "um",
}
_NOT_STATED = ("", "?", "unknown")
_NOT_PLACED = Sentence("affine is nominal: the file does not say where the voxels lie in the patient")


@dataclass(frozen=True)
class Repair:
    """A change that makes a series one regular volume: its kind for programs, its reason for people."""

    kind: RepairKind
    reason: Text


@dataclass(frozen=True)
class Verdict:
    """Findings on a series, from which the decision follows.

    Attributes:
        rejections: reasons why it cannot be used, as sentences.
        repairs: changes made when it is read.
        remarks: what a user of the series should know, as sentences.
        placed: whether the file states the position in the patient; if not, its affine holds only voxel sizes.
        doubt: why the values cannot be Hounsfield units, if the file does not state their unit.
    """

    rejections: tuple[Text, ...] = ()
    repairs: tuple[Repair, ...] = ()
    remarks: tuple[Text, ...] = ()
    placed: bool = True
    doubt: Text = ""

    @property
    def decision(self) -> Decision:
        """The most severe decision that any finding requires."""
        return "reject" if self.rejections else ("repair" if self.repairs else "accept")

    @property
    def usable(self) -> bool:
        """Whether the series can be read as one volume."""
        return not self.rejections

    @property
    def reasons(self) -> tuple[str, ...]:
        """All findings as sentences; empty only for an ``accept`` without remarks."""
        nominal = () if self.placed else (_NOT_PLACED,)
        repairs = (repair.reason for repair in self.repairs)
        return (*self.rejections, *repairs, *nominal, *self.remarks, *filter(None, (self.doubt,)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Repairs and remarks: what a reader of results from the series should know."""
        return (*(repair.reason for repair in self.repairs), *self.remarks)

    def joined(self, other: Verdict) -> Verdict:
        """The findings of both verdicts, without duplicates."""
        return Verdict(
            tuple(dict.fromkeys((*self.rejections, *other.rejections))),
            tuple(dict.fromkeys((*self.repairs, *other.repairs))),
            tuple(dict.fromkeys((*self.remarks, *other.remarks))),
            self.placed and other.placed,
            self.doubt or other.doubt,
        )

    def remarked(self, remarks: Sequence[str]) -> Verdict:
        """The same verdict with further remarks."""
        return self.joined(Verdict(remarks=tuple(remarks)))

    def __str__(self) -> str:
        return self.decision if not self.reasons else f"{self.decision}: {'; '.join(self.reasons)}"


def require_usable_series(verdict: Verdict, where: object) -> None:
    """Raise GeometryRejected with the verdict's reasons if it rejects the series."""
    if not verdict.usable:
        raise GeometryRejected(
            joined(*verdict.reasons),
            where=where,
            expected="one regular volume of CT, MR or PT values",
            action="Export the series again, or leave it out",
        )


# A file that states its own grid ----------------------------------------------------------------------------------


def grid_verdict(
    shape_ijk: Sequence[int],
    affine: geometry.Affine,
    *,
    channels: int = 1,
    is_complex: bool = False,
    placed: bool,
    straight: bool = True,
) -> Verdict:
    """Reject a file unless it holds one three-dimensional volume of real scalar values on a rectangular grid.

    Args:
        shape_ijk: voxels along each axis, the fastest-varying first.
        affine: (i, j, k) to LPS mm.
        channels: values per voxel.
        is_complex: whether the values are complex numbers.
        placed: whether the file states the position in the patient.
        straight: whether sheared axes are rejected.
    """
    reasons = [
        *_shape_reasons(shape_ijk, channels),
        *_affine_reasons(affine, straight=straight),
        *([Sentence("complex values")] * is_complex),
    ]
    return Verdict(rejections=tuple(reasons), placed=placed)


def unit_in_mm(units: Sequence[str]) -> tuple[float, Verdict]:
    """The unit's length in mm, and a verdict: a remark on conversion, or a rejection of unknown or mixed units.

    Args:
        units: as a file names them, one for each axis or one for all; mm if not stated.
    """
    names = [_NAMES.get(name.removesuffix("s"), name) for name in (unit.strip().lower() for unit in units)]
    names = ["" if name in _NOT_STATED else name for name in names]
    if not any(names) or set(names) == {"mm"}:
        return 1.0, Verdict()
    if len(set(names)) > 1 or names[0] not in _MM:
        return 1.0, Verdict(rejections=(Sentence("lengths that are not all in one of {units}", units=", ".join(_MM)),))
    return _MM[names[0]], Verdict(
        remarks=(Sentence("lengths are stated in {unit} and were converted to mm", unit=names[0]),)
    )


def _shape_reasons(shape: Sequence[int], channels: int) -> list[str]:
    size = " x ".join(str(length) for length in shape)
    if channels != 1:
        return [Sentence("{channels} values a voxel, not one", channels=channels)]
    if len(shape) < 3 or min(shape[:3]) < 2:
        return [Sentence("array of {size} is not three-dimensional", size=size)]
    if (count := int(np.prod(shape[3:]))) != 1:
        return [Sentence("array of {size} holds {count} volumes, not one", size=size, count=count)]
    return []


def _affine_reasons(affine: geometry.Affine, *, straight: bool) -> list[str]:
    if not np.isfinite(affine).all():
        return [Sentence("voxel sizes or positions that are NaN or infinite")]
    if np.abs(affine).max() >= FARTHEST_MM:
        return [Sentence("voxel sizes or positions beyond {most:g} mm", most=FARTHEST_MM)]
    spacing = geometry.spacing_mm(affine)
    if not VOXEL_MM[0] <= min(spacing) <= max(spacing) <= VOXEL_MM[1]:
        return [Sentence("voxels of {size} mm", size=" x ".join(f"{mm:.4g}" for mm in spacing))]
    try:
        geometry.orientation(affine)
    except GeometryRejected as error:
        return [error.found]
    shear = geometry.shear_degrees(affine)
    if not straight or shear <= MAX_SHEAR_DEGREES:
        return []
    return [
        Sentence(
            "voxel axes are sheared by {shear:.1f} degrees, as of a tilted gantry; the DICOM series can be read",
            shear=shear,
        )
    ]
