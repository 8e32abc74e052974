"""What a search of a folder finds: series, and files that are no scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from med_transfer.errors.sentence import Sentence
from med_transfer.scans import geometry
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.verdict import Verdict


@dataclass(frozen=True)
class Series:
    """One series found on disk, not yet read.

    Attributes:
        path: the folder that holds a DICOM series, the archive it lies in, or the file of another format.
        files: DICOM: in slice order along the normal, repeated slices dropped; else the one file.
        format: dicom | nifti | nrrd | metaimage.
        modality: DICOM Modality (0008,0060); empty when the format does not say.
        part: what tells one of several volumes under one SeriesInstanceUID apart ("EchoTime 4.6"); empty for a whole.
        n_slices: slices along the last voxel axis.
        verdict: from the headers alone (pixels are compared only where two slices share one position).
        affine: (i, j, k) to LPS mm as stored; None where the headers give none.
        acquisition: how it was made (ConvolutionKernel, SliceThickness ...), by DICOM keyword.
        slices: DICOM: the headers of its images, in order.
        context: the part of the verdict that comes from other files: copies, counts, damaged files beside it.
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

    def among(self, context: Verdict) -> Series:
        """The same series with what other files say of it; of one that cannot be used, only why else it cannot."""
        said = context if self.verdict.usable else Verdict(rejections=context.rejections)
        return replace(self, verdict=self.verdict.joined(said), context=self.context.joined(context))

    @property
    def name(self) -> str:
        """What picks this series in its folder: its UID, with the part where one UID holds several volumes."""
        return f"{self.series_uid}#{self.part}" if self.part else self.series_uid

    @property
    def on_disk(self) -> tuple[Path, ...]:
        """Whose change is a change of the series: its files, or the archive that they are unpacked from."""
        return self.files if self.path.is_dir() or self.path in self.files else (self.path,)

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance between voxels along column, row and slice; between slices along the normal, whatever the tilt."""
        if self.affine is None:
            return None
        column, row, _ = geometry.spacing_mm(self.affine)
        return column, row, abs(float(self.affine[:3, 2] @ geometry.normal(self.affine)))

    @property
    def plane(self) -> str:
        """axial, coronal, sagittal, or oblique (more than 20 degrees off all three); empty when unknown."""
        return "" if self.affine is None else geometry.plane(self.affine)


NO_IMAGE = Sentence("not an image file")  # the reason of a file that is of no known format; other objects are named
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
    """All that a folder holds; hidden files are not listed."""

    series: tuple[Series, ...]
    ignored: tuple[Ignored, ...]
