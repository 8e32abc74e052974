"""One DICOM file's header, read without its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from med_transfer.errors import NotAScan, UnreadableScan

_PREFIX_AT = 128  # DICOM PS3.10 section 7.1: 128 bytes of preamble, then "DICM"
_UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_VALUE_REPRESENTATIONS = {
    b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"OB", b"OW", b"PN", b"SH", b"SL", b"SS", b"ST",
    b"TM", b"UI", b"UL", b"UN", b"US", b"UT",
}  # fmt: skip
_LONGEST_FIRST_VALUE = 1024  # bytes; the first element of a file without preamble is a short text or a group length

ACQUISITION_KEYWORDS = (
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
    "SliceThickness",
    "KVP",
    "GantryDetectorTilt",
)
_KEYWORDS = [
    *ACQUISITION_KEYWORDS,
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "ImageType", "SeriesDescription", "PatientID"),
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "PixelRepresentation"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
]


@dataclass(frozen=True)
class Slice:
    """The header of one image. Geometry is an empty tuple where the file gives none, or no numbers.

    Attributes:
        orientation: ImageOrientationPatient, row then column cosines (LPS).
        position_mm: ImagePositionPatient, the middle of the first voxel (LPS).
        spacing_mm: PixelSpacing, (between rows, between columns).
        tilt_degrees: GantryDetectorTilt as declared; the positions decide what is true.
    """

    path: Path
    sop_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    samples: int
    frames: int
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    slope: float
    intercept: float
    rescale_type: str
    has_lookup_table: bool
    tilt_degrees: float
    acquisition: tuple[tuple[str, str], ...]
    description: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.image_type


def looks_like_dicom(path: Path) -> bool:
    """Whether the first bytes are those of a DICOM file, with or without the preamble of PS3.10.

    Raises OSError when the file cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(_PREFIX_AT + 4)
    return start[_PREFIX_AT:] == b"DICM" or _starts_with_an_element(start)


def _starts_with_an_element(start: bytes) -> bool:
    """Group 0002 or 0008, little endian, then a value representation or a short length (PS3.5 section 7.1)."""
    if len(start) < 8 or start[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    return start[4:6] in _VALUE_REPRESENTATIONS or int.from_bytes(start[4:8], "little") <= _LONGEST_FIRST_VALUE


def read_slice(path: Path) -> Slice:
    """The header of an image file.

    Raises:
        NotAScan: a DICOM object that is no image (segmentation, report, DICOMDIR ...).
        UnreadableScan: damaged or truncated.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS), force=True)
        _require_image(header, path)
        found = _slice(header, path)
    except (NotAScan, UnreadableScan):
        raise
    except Exception as error:  # corrupt bytes make the parser raise nearly anything
        raise UnreadableScan(f"damaged DICOM header ({type(error).__name__})", where=path) from error
    _require_whole(header, found)
    return found


def _require_image(header: FileDataset, path: Path) -> None:
    kind = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""))
    has_pixels = bool(header.get("Rows") and header.get("Columns"))
    known = kind.name != kind
    complete = bool(header.get("Modality") and header.get("SeriesInstanceUID"))
    if (known and "Image Storage" not in kind.name) or (not known and not has_pixels and complete):
        raise NotAScan(f"{header.get('Modality', 'DICOM')} object ({kind.name}), not an image", where=path)
    if not has_pixels:
        raise UnreadableScan("image without Rows and Columns: damaged or truncated", where=path)


def _require_whole(header: FileDataset, found: Slice) -> None:
    """A file that is smaller than its uncompressed pixels is truncated; no need to decode it to know."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax not in _UNCOMPRESSED:
        return
    bits = found.rows * found.columns * found.samples * found.frames * int(header.get("BitsAllocated") or 16)
    size = found.path.stat().st_size
    if size < bits // 8:
        raise UnreadableScan(f"truncated: {size} bytes, its pixels alone need {bits // 8}", where=found.path)


def _slice(header: Dataset, path: Path) -> Slice:
    present = [(keyword, header.get(keyword)) for keyword in ACQUISITION_KEYWORDS]
    return Slice(
        path=path,
        sop_uid=_text(header, "SOPInstanceUID"),
        study_uid=_text(header, "StudyInstanceUID"),
        series_uid=_text(header, "SeriesInstanceUID"),
        frame_of_reference=_text(header, "FrameOfReferenceUID"),
        modality=_text(header, "Modality"),
        image_type=tuple(str(part).upper() for part in _values(header, "ImageType")),
        rows=int(header.Rows),
        columns=int(header.Columns),
        samples=int(header.get("SamplesPerPixel") or 1),
        frames=int(header.get("NumberOfFrames") or 1),
        position_mm=_numbers(header, "ImagePositionPatient", 3),
        orientation=_numbers(header, "ImageOrientationPatient", 6),
        spacing_mm=_numbers(header, "PixelSpacing", 2),
        slope=_number(header, "RescaleSlope", 1.0),
        intercept=_number(header, "RescaleIntercept", 0.0),
        rescale_type=_text(header, "RescaleType").upper(),
        has_lookup_table=bool(header.get("ModalityLUTSequence")),
        tilt_degrees=_number(header, "GantryDetectorTilt", 0.0),
        acquisition=tuple((keyword, str(value)) for keyword, value in present if value not in (None, "")),
        description=_text(header, "SeriesDescription"),
        patient=_text(header, "PatientID"),
    )


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()


def _values(header: Dataset, keyword: str) -> list:
    value = header.get(keyword)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in _values(header, keyword))
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and all(math.isfinite(number) for number in numbers) else ()


def _number(header: Dataset, keyword: str, absent: float) -> float:
    if not _values(header, keyword):
        return absent
    numbers = _numbers(header, keyword, 1)
    if not numbers:
        raise ValueError(f"{keyword} is not a number")
    return numbers[0]
