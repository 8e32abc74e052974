"""The verdict on a series: accept, repair (and what was done), or reject (and why)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from med_transfer.errors import GeometryRejected
from med_transfer.scans import geometry

Decision = Literal["accept", "repair", "reject"]
RepairKind = Literal["gantry_tilt", "uneven_gaps", "repeated_slices"]
MAX_SHEAR_DEGREES = 0.5
FARTHEST_MM = 1e5  # no scanner is larger; beyond it numbers are damaged
_NOT_PLACED = "affine is nominal: the file does not say where the voxels lie in the patient"


@dataclass(frozen=True)
class Repair:
    """What is changed so that a series forms one regular volume: the kind for programs, the reason for a person."""

    kind: RepairKind
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What was found of a series; the decision follows from it.

    Attributes:
        rejections: why it cannot be used, in sentences.
        repairs: what reading it changes.
        remarks: what a person should know of a series that is used, in sentences.
        placed: whether the file says where the voxels lie in the patient; else its affine gives sizes alone.
    """

    rejections: tuple[str, ...] = ()
    repairs: tuple[Repair, ...] = ()
    remarks: tuple[str, ...] = ()
    placed: bool = True

    @property
    def decision(self) -> Decision:
        """The most severe that anything found asks for."""
        return "reject" if self.rejections else ("repair" if self.repairs else "accept")

    @property
    def usable(self) -> bool:
        """Whether the series can be read as one volume."""
        return not self.rejections

    @property
    def reasons(self) -> tuple[str, ...]:
        """All that was found, in sentences for a person; empty only for a plain ``accept``."""
        nominal = () if self.placed else (_NOT_PLACED,)
        return (*self.rejections, *(repair.reason for repair in self.repairs), *nominal, *self.remarks)

    def joined(self, other: Verdict) -> Verdict:
        """What either found, each once."""
        return Verdict(
            tuple(dict.fromkeys((*self.rejections, *other.rejections))),
            tuple(dict.fromkeys((*self.repairs, *other.repairs))),
            tuple(dict.fromkeys((*self.remarks, *other.remarks))),
            self.placed and other.placed,
        )

    def remarked(self, remarks: Sequence[str]) -> Verdict:
        """The same verdict with further remarks."""
        return self.joined(Verdict(remarks=tuple(remarks)))

    def __str__(self) -> str:
        return self.decision if not self.reasons else f"{self.decision}: {'; '.join(self.reasons)}"


def require_usable_series(verdict: Verdict, where: object) -> None:
    """Raises GeometryRejected with the reasons of a verdict that rejects."""
    if not verdict.usable:
        raise GeometryRejected(
            "; ".join(verdict.reasons),
            where=where,
            expected="one regular volume of CT, MR or PT values",
            action="Export the series again, or leave it out",
        )


# A file that states its own grid ----------------------------------------------------------------------------------


def grid_verdict(
    shape_ijk: Sequence[int], affine: geometry.Affine, *, channels: int = 1, is_complex: bool = False, placed: bool
) -> Verdict:
    """Reject unless the file holds one three-dimensional volume of single real values on a rectangular grid.

    Args:
        shape_ijk: voxels along each axis, the fastest first.
        affine: (i, j, k) to LPS mm.
        channels: values a voxel.
        is_complex: whether the values are complex numbers.
        placed: whether the file says where the voxels lie in the patient.
    """
    reasons = [*_shape_reasons(shape_ijk, channels), *_affine_reasons(affine), *(["complex values"] * is_complex)]
    return Verdict(rejections=tuple(reasons), placed=placed)


def _shape_reasons(shape: Sequence[int], channels: int) -> list[str]:
    size = " x ".join(str(length) for length in shape)
    if channels != 1:
        return [f"{channels} values a voxel, not one"]
    if len(shape) < 3 or min(shape[:3]) < 2:
        return [f"array of {size} is not three-dimensional"]
    if (count := int(np.prod(shape[3:]))) != 1:
        return [f"array of {size} holds {count} volumes, not one"]
    return []


def _affine_reasons(affine: geometry.Affine) -> list[str]:
    if not np.isfinite(affine).all():
        return ["voxel sizes or positions that are NaN or infinite"]
    if np.abs(affine).max() >= FARTHEST_MM:
        return [f"voxel sizes or positions beyond {FARTHEST_MM:g} mm"]
    try:
        geometry.orientation(affine)
    except GeometryRejected as error:
        return [error.found]
    shear = geometry.shear_degrees(affine)
    return [f"voxel axes are sheared by {shear:.1f} degrees"] if shear > MAX_SHEAR_DEGREES else []
