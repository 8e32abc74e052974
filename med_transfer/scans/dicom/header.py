"""Describe the images of one DICOM file from its header alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from med_transfer.errors import NotAScan, UnreadableScan, unreadable
from med_transfer.errors.sentence import Sentence, Text
from med_transfer.scans.dicom.codecs import PixelFormat
from med_transfer.scans.dicom.elements import Header, Stamp, Values, read_header
from med_transfer.scans.dicom.functional_groups import frames_of

_PREFIX_AT = 128  # DICOM PS3.10 section 7.1: 128 bytes of preamble, then "DICM"
_UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_VALUE_REPRESENTATIONS = frozenset(b"AE AS CS DA DS DT IS LO LT OB OW PN SH SL SS ST TM UI UL UN US UT".split())
_MAX_COMPRESSED = 4000  # compression ratio; a constant image reaches several hundred, more is corrupt or an attack
_LONGEST_FIRST_VALUE = 1024  # bytes; without preamble, the first element is a short text or a group length

ACQUISITION_KEYWORDS = (
    *("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "SliceThickness", "KVP", "GantryDetectorTilt"),
    *("BodyPartExamined", "ContrastBolusAgent", "PatientPosition", "MagneticFieldStrength", "RepetitionTime"),
    *("EchoTime", "ScanningSequence", "ScanOptions", "ImageType"),
)
# Kind of the values, and number of images.
CONTENT_KEYWORDS = (
    *("PhotometricInterpretation", "PixelRepresentation", "Units", "ComplexImageComponent"),
    *("LossyImageCompression", "BurnedInAnnotation", "VolumetricProperties"),
    *("NumberOfSlices", "ImagesInAcquisition", "InConcatenationTotalNumber"),
)
# Attributes that separate acquisitions, phases or echoes within one series, the most reliable first.
PHASE_KEYWORDS = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "StackID"),
    *("EchoNumbers", "EchoTime", "EffectiveEchoTime", "DiffusionBValue", "TriggerTime"),
    *("NominalPercentageOfCardiacPhase", "ImageType", "ComplexImageComponent", "ConvolutionKernel"),
    *("AcquisitionTime", "ContentTime"),
)
_KEYWORDS = tuple(
    dict.fromkeys(
        (
            *("TransferSyntaxUID", "MediaStorageSOPClassUID", "SpecificCharacterSet"),
            *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
            *("Modality", "PatientID"),
            *("InstanceNumber", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"),
            *("BitsAllocated", "BitsStored", "HighBit", "OverlayBitPosition"),
            *("PixelPaddingValue", "PixelPaddingRangeLimit"),
            *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
            *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
            *ACQUISITION_KEYWORDS,
            *PHASE_KEYWORDS,
            *CONTENT_KEYWORDS,
        )
    )
)


@dataclass(frozen=True, slots=True)
class StoredPixels:
    """Location and encoding of the pixels of one image.

    Attributes:
        format: encoding of one image.
        at: file offset of PixelData's value; None if only pydicom can find it (deflated, no preamble ...).
        length: bytes of the value; None if encapsulated.
        frame, frames: index of the image, from 0, and number of images in the file.
        padding: PixelPaddingValue and PixelPaddingRangeLimit as written (PS3.3 C.7.5.1.1.2); empty if absent.
    """

    format: PixelFormat
    at: int | None = None
    length: int | None = None
    frame: int = 0
    frames: int = 1
    padding: tuple[int, ...] = ()

    @property
    def encapsulated(self) -> bool:
        """Whether frames are stored as fragments (PS3.5 A.4), not as one block of pixels."""
        return self.format.syntax not in (*_UNCOMPRESSED, DeflatedExplicitVRLittleEndian)

    @property
    def is_last(self) -> bool:
        """Whether this is the last image of its file, followed only by padding."""
        return self.frame == self.frames - 1

    @property
    def frame_bytes(self) -> int:
        """Size of one uncompressed image in bytes."""
        return self.format.rows * self.format.columns * self.format.samples * self.format.bits_allocated // 8


@dataclass(frozen=True, slots=True)
class Slice:
    """One image. Geometry that the file lacks or that is not numeric is an empty tuple.

    Attributes:
        stamp: of the file when it was read.
        orientation: ImageOrientationPatient, row then column cosines (LPS).
        position_mm: ImagePositionPatient, the centre of the first voxel (LPS).
        spacing_mm: PixelSpacing, (between rows, between columns).
        tilt_degrees: GantryDetectorTilt as declared; the true tilt follows from the positions.
        phase: values of ``PHASE_KEYWORDS``, by keyword.
        content: values of ``CONTENT_KEYWORDS``, by keyword.
        number: InstanceNumber; None if absent, and for frames of a multi-frame file.
        damage: why the pixels must be incomplete or undecodable, as far as the header shows; else empty.
        placed: False for a multi-frame file that does not state the positions of its frames.
        patient_mark: three digits of a hash of PatientID, which distinguish patients under one UID without identifying
            them: many PatientIDs share each value.
    """

    path: Path
    stamp: Stamp
    sop_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference: str
    modality: str
    image_type: tuple[str, ...]
    pixels: StoredPixels
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    slope: float
    intercept: float
    rescale_type: str
    has_lookup_table: bool
    tilt_degrees: float
    acquisition: tuple[tuple[str, str], ...]
    phase: tuple[tuple[str, str], ...]
    content: tuple[tuple[str, str], ...] = ()
    number: int | None = None
    damage: Text = ""
    placed: bool = True
    patient_mark: str = ""

    @property
    def rows(self) -> int:
        """Height of the image in pixels."""
        return self.pixels.format.rows

    @property
    def columns(self) -> int:
        """Width of the image in pixels."""
        return self.pixels.format.columns

    @property
    def image(self) -> tuple[str, tuple[float, ...]]:
        """Identity of the image across files; includes the position, since SOPInstanceUIDs are not always unique."""
        return self.sop_uid, self.position_mm

    @property
    def is_localizer(self) -> bool:
        """Whether ImageType (0008,0008) marks the image as a scout."""
        return "LOCALIZER" in self.image_type


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file that starts with these 132 bytes is DICOM, with or without the preamble of PS3.10.

    Without preamble it must start with group 0002 or 0008 in either byte order, followed by a value representation or
    a small length (PS3.5 section 7.1).
    """
    if start[_PREFIX_AT : _PREFIX_AT + 4] == b"DICM":
        return True
    if len(start) < 8 or start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return False
    return start[4:6] in _VALUE_REPRESENTATIONS or int.from_bytes(start[4:8], "little") <= _LONGEST_FIRST_VALUE


def read_slices(path: Path) -> list[Slice]:
    """The images of a file: one, or one per frame of an enhanced multi-frame object (PS3.3 C.7.6.16).

    Raises:
        NotAScan: a DICOM object other than an image (segmentation, report, DICOMDIR ...).
        UnreadableScan: the header is damaged.
    """
    try:
        header = read_header(path, _KEYWORDS)
        _require_image(header, path)
        if not _is_multi_frame(header.values):
            return [_slice(path, header, header.values)]
        frames = frames_of(path, header.values, ACQUISITION_KEYWORDS + PHASE_KEYWORDS + CONTENT_KEYWORDS)
        if not frames:
            return [replace(_slice(path, header, header.values), placed=False)]
        return [_slice(path, header, values, frame, len(frames)) for frame, values in enumerate(frames)]
    except (NotAScan, UnreadableScan):
        raise
    except Exception as error:  # corrupt bytes make a parser raise nearly anything
        found = Sentence("damaged DICOM header ({kind})", kind=type(error).__name__)
        raise unreadable(found, error, where=path) from error


def _is_multi_frame(values: Values) -> bool:
    return int(_first(values, "NumberOfFrames") or 1) > 1 or "Enhanced" in UID(_first(values, "SOPClassUID")).name


def _require_image(header: Header, path: Path) -> None:
    values = header.values
    kind = UID(_first(values, "SOPClassUID") or _first(values, "MediaStorageSOPClassUID"))
    has_size = all(int(_first(values, keyword) or 0) > 0 for keyword in ("Rows", "Columns"))
    registered = kind.name != kind
    complete = bool(_first(values, "Modality") and _first(values, "SeriesInstanceUID"))
    if (registered and "Image Storage" not in kind.name) or (not registered and not has_size and complete):
        modality = _first(values, "Modality") or "DICOM"
        raise NotAScan(
            Sentence("{modality} object ({name}), not an image", modality=modality, name=kind.name), where=path
        )
    if not has_size:
        raise UnreadableScan("image without Rows and Columns: damaged or truncated", where=path)


def _slice(path: Path, header: Header, values: Values, frame: int = 0, frames: int = 1) -> Slice:
    pixels = _pixels(header, values, frame, frames)
    uid = _first(values, "SOPInstanceUID")
    return Slice(
        path=path,
        stamp=header.stamp,
        sop_uid=f"{uid}/{frame}" if uid and frames > 1 else uid,
        study_uid=_first(values, "StudyInstanceUID"),
        series_uid=_first(values, "SeriesInstanceUID"),
        frame_of_reference=_first(values, "FrameOfReferenceUID"),
        modality=_first(values, "Modality"),
        image_type=tuple(part.upper() for part in values.get("ImageType", ())),
        pixels=pixels,
        position_mm=_numbers(values, "ImagePositionPatient", 3),
        orientation=_numbers(values, "ImageOrientationPatient", 6),
        spacing_mm=_numbers(values, "PixelSpacing", 2),
        slope=_number(values, "RescaleSlope", 1.0),
        intercept=_number(values, "RescaleIntercept", 0.0),
        rescale_type=_first(values, "RescaleType").upper(),
        has_lookup_table="ModalityLUTSequence" in values,
        tilt_degrees=_number(values, "GantryDetectorTilt", 0.0),
        acquisition=_texts(values, ACQUISITION_KEYWORDS),
        phase=_texts(values, PHASE_KEYWORDS),
        content=_texts(values, CONTENT_KEYWORDS),
        number=_number_in_series(values) if frames == 1 else None,
        damage=_damage(header, pixels) or _coding(values, pixels),
        patient_mark=hashlib.sha256(_first(values, "PatientID").encode()).hexdigest()[:3],
    )


def _pixels(header: Header, values: Values, frame: int, frames: int) -> StoredPixels:
    allocated = _integer(values, "BitsAllocated", 16)
    padding = [
        _integer(values, keyword, 0) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit") if keyword in values
    ]
    bits_stored = _integer(values, "BitsStored", allocated)
    stored = PixelFormat(
        syntax=header.syntax,
        rows=_integer(values, "Rows", 0),
        columns=_integer(values, "Columns", 0),
        samples=_integer(values, "SamplesPerPixel", 1),
        bits_allocated=allocated,
        bits_stored=bits_stored,
        signed=_integer(values, "PixelRepresentation", 0) == 1,
        overlay=_integer(values, "OverlayBitPosition", 0) >= bits_stored,
    )
    return StoredPixels(stored, header.pixels_at, header.pixels_length, frame, frames, tuple(padding))


def _damage(header: Header, pixels: StoredPixels) -> str:
    """Damage that sizes alone reveal, such as an uncompressed file that is smaller than its pixels; else empty."""
    if not header.has_pixels:
        return Sentence("truncated: no pixels behind the header")
    if header.pixels_at is not None and header.pixels_length is None and header.syntax in _UNCOMPRESSED:
        return Sentence("damaged: pixels in fragments, which an uncompressed file does not have")
    needed, size = pixels.frame_bytes * pixels.frames, header.stamp[0]
    if header.syntax not in _UNCOMPRESSED:
        if needed <= _MAX_COMPRESSED * size:
            return ""
        return Sentence("damaged: {needed} bytes of pixels in a file of {size}", needed=needed, size=size)
    there = size - (pixels.at or 0)
    if pixels.length is not None:
        there = min(there, pixels.length)
    if there >= needed:
        return ""
    return Sentence("truncated: {there} bytes of pixels, {needed} needed", there=max(there, 0), needed=needed)


def _coding(values: Values, pixels: StoredPixels) -> str:
    stored = pixels.format.bits_stored
    high = _integer(values, "HighBit", stored - 1)
    if high == stored - 1:
        return ""
    return Sentence(
        "coded with HighBit {high}, expected {expected} for {bits} bits",
        high=high,
        expected=stored - 1,
        bits=stored,
    )


def _first(values: Values, keyword: str) -> str:
    return values.get(keyword, ("",))[0]


def _texts(values: Values, keywords: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((keyword, "\\".join(values[keyword])) for keyword in keywords if keyword in values)


def _integer(values: Values, keyword: str, absent: int) -> int:
    text = _first(values, keyword)
    return int(float(text)) if text else absent


def _number_in_series(values: Values) -> int | None:
    try:
        return int(_first(values, "InstanceNumber"))
    except ValueError:
        return None


def _numbers(values: Values, keyword: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in values.get(keyword, ()))
    except ValueError:
        return ()
    return numbers if len(numbers) == count and all(math.isfinite(number) for number in numbers) else ()


def _number(values: Values, keyword: str, absent: float) -> float:
    if keyword not in values:
        return absent
    numbers = _numbers(values, keyword, 1)
    if not numbers:
        raise ValueError(f"{keyword} is not a number")
    return numbers[0]
