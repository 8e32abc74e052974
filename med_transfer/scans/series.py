"""The result of searching a folder: series, and files that are not scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from med_transfer.errors.sentence import Sentence
from med_transfer.scans import geometry
from med_transfer.scans.dicom.elements import Stamp
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.verdict import Verdict


@dataclass(frozen=True)
class Series:
    """One series found on disk, whose voxels have not been read.

    Attributes:
        path: the folder of a DICOM series, the archive that contains it, or the file of another format.
        files: DICOM: in slice order along the normal, without repeated slices; otherwise the one file.
        format: dicom | nifti | nrrd | metaimage.
        modality: DICOM Modality (0008,0060); empty if the format does not state it.
        part: distinguishes volumes under one SeriesInstanceUID ("EchoTime 4.6"); empty if there is only one.
        n_slices: number of voxels along the last voxel axis (k).
        verdict: from the headers alone (pixels are compared only if two slices share a position).
        affine: (i, j, k) to LPS mm as stored; None if the headers do not give it.
        acquisition: acquisition parameters (ConvolutionKernel, SliceThickness ...) by DICOM keyword.
        slices: DICOM: the headers of its images, in order.
        context: the part of the verdict that other files cause: copies, image counts, damaged files beside it.
        archive_stamp: of the archive that contains it, taken before it was unpacked; None if it is in none.
    """

    path: Path
    files: tuple[Path, ...]
    format: str
    modality: str
    study_uid: str
    series_uid: str
    n_slices: int
    verdict: Verdict
    part: str = ""
    affine: geometry.Affine | None = field(default=None, repr=False, compare=False)
    acquisition: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    slices: tuple[Slice, ...] = field(default=(), repr=False, compare=False)
    context: Verdict = field(default=Verdict(), repr=False, compare=False)
    archive_stamp: Stamp | None = field(default=None, repr=False, compare=False)

    def among(self, context: Verdict) -> Series:
        """Add what other files say of this series to its verdict; only rejections if it is already unusable."""
        added = context if self.verdict.usable else Verdict(rejections=context.rejections)
        return replace(self, verdict=self.verdict.joined(added), context=self.context.joined(context))

    @property
    def name(self) -> str:
        """Identifies this series in its folder: its UID, followed by ``#part`` if one UID holds several volumes."""
        return f"{self.series_uid}#{self.part}" if self.part else self.series_uid

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance in mm between voxels along column, row and slice; between slices along their normal."""
        if self.affine is None:
            return None
        column, row, _ = geometry.spacing_mm(self.affine)
        return column, row, abs(float(self.affine[:3, 2] @ geometry.normal(self.affine)))

    @property
    def plane(self) -> str:
        """axial, coronal, sagittal, or oblique (more than 20 degrees from all three); empty if unknown."""
        return "" if self.affine is None else geometry.plane(self.affine)


NO_IMAGE = Sentence("not an image file")  # reason for a file of unknown format
TEXT_NAMED_AS_DICOM = Sentence("named as DICOM, but {what}", what=Sentence("it is text"))


@dataclass(frozen=True)
class Ignored:
    """A file that is not a scan: another DICOM object, text, DICOMDIR ...

    ``damaged`` marks a file that should have been a slice or a scan but cannot be read.
    """

    path: Path
    reason: str
    damaged: bool = False


@dataclass(frozen=True)
class Survey:
    """All series and other files of a folder, except hidden files."""

    series: tuple[Series, ...]
    ignored: tuple[Ignored, ...]
