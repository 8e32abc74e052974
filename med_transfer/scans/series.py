"""What a search of a folder finds: series, and files that are no scans."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from med_transfer.scans.verdict import Verdict


@dataclass(frozen=True)
class Series:
    """One series found on disk, not yet read.

    Attributes:
        path: the folder that holds a DICOM series, or the file of another format.
        files: DICOM: in slice order along the normal, repeated slices dropped; else the one file.
        format: dicom | nifti | nrrd | metaimage.
        modality: DICOM Modality (0008,0060); empty when the format does not say.
        n_slices: slices along the last voxel axis.
        verdict: from the headers alone (pixels are compared only where two slices share one position).
        description, patient: SeriesDescription and PatientID, for linking labels in memory; never written out.
    """

    path: Path
    files: tuple[Path, ...]
    format: str
    modality: str
    study_uid: str
    series_uid: str
    n_slices: int
    verdict: Verdict
    description: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)


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
