"""Recognise and load DICOM objects with regions (SEG, RTSTRUCT), and pick a region by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.dataset import Dataset, FileDataset

from med_transfer.errors import AmbiguousScan, ScanError, ScanNotFound, UnreadableScan, UnusableVoxels, unreadable
from med_transfer.errors.sentence import Sentence, few
from med_transfer.scans.volume import Provenance

Kind = Literal["SEG", "RTSTRUCT", ""]
_KINDS: dict[str, Kind] = {  # SOP classes, DICOM PS3.4 B.5
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
FARTHEST_MM = 1e6  # coordinates beyond a kilometre are corrupt
_MAX_NAMED = 30  # regions listed in one message


def object_kind(path: Path) -> Kind:
    """Kind of a file by its SOP class; empty for other objects and files that are not DICOM."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
        if start[128:] != b"DICM" and start[:2] not in (b"\x08\0", b"\x02\0"):
            return ""
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True)
        sop_class = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID"))
    except Exception:  # invalid bytes make the parser raise nearly anything
        return ""
    return _KINDS.get(sop_class, "")


def load_object(path: Path) -> FileDataset:
    """Load the whole object. Raises UnreadableScan if it is damaged or truncated."""
    with damage_reported(path):
        dataset = pydicom.dcmread(path, force=True)
        for element in dataset.elements():
            if isinstance(element.value, bytes) and 0 < len(element.value) < getattr(element, "length", 0) < 0xFFFFFFFF:
                raise UnreadableScan("truncated", where=path, action="Export the object again")
        return dataset


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Turn any error on corrupt values into UnreadableScan, without the values."""
    try:
        yield
    except ScanError:
        raise
    except Exception as error:
        found = Sentence("damaged DICOM object ({kind})", kind=type(error).__name__)
        raise unreadable(found, error, where=path) from error


def pick(regions: Sequence[tuple[int, str]], name: str, what: str, path: Path) -> int:
    """The number of the region called ``name``: by label, else by label ignoring case and spacing, else by number.

    Args:
        regions: number and label of each region.
        name: empty if the object should contain a single region.
        what: word for a region in messages: ``segment`` or ``ROI``.
        path: the file, for errors.

    Raises:
        UnusableVoxels: the object has no region.
        UnreadableScan: two regions have the same number.
        ScanNotFound: no region of that name.
        AmbiguousScan: several; the message lists them.
    """
    if not regions:
        raise UnusableVoxels(Sentence("no {what} in the object", what=what), where=path)
    if len({number for number, _ in regions}) < len(regions):
        raise UnreadableScan(Sentence("two {what}s have one number", what=what), where=path)
    numbers = _named(regions, name) if name else [number for number, _ in regions]
    if len(numbers) == 1:
        return numbers[0]
    if not numbers:
        raise ScanNotFound(
            Sentence("no {what} {name!r}", what=what, name=name),
            where=path,
            expected=Sentence("one of {names}", names=_listed(regions)),
        )
    several = [region for region in regions if region[0] in numbers]
    raise AmbiguousScan(
        Sentence("{n} {what}s: {several}", n=len(several), what=what, several=_listed(several)),
        where=path,
        expected=Sentence("one {what}", what=what),
        action=Sentence("Give the {what}'s number", what=what) if name else Sentence("Name one {what}", what=what),
    )


def _named(regions: Sequence[tuple[int, str]], name: str) -> list[int]:
    exact = [number for number, label in regions if label == name]
    alike = [number for number, label in regions if _plain(label) == _plain(name)]
    return exact or alike or [number for number, _ in regions if str(number) == whole(name.strip())]


def whole(name: str) -> str:
    """``3`` for ``3.0``, which pandas writes if a column of integers has missing values."""
    number, point, decimals = name.partition(".")
    return number if point and number.isdecimal() and decimals and not decimals.strip("0") else name


def _plain(label: str) -> str:
    return " ".join(label.split()).casefold()


def _listed(regions: Sequence[tuple[int, str]]) -> str:
    return few([f"{number} {label!r}" for number, label in regions], _MAX_NAMED)


def provenance_of(dataset: Dataset, path: Path, kind: Kind, frame_of_reference: object) -> Provenance:
    """Provenance of a DICOM SEG or RTSTRUCT file; ``frame_of_reference`` is a UID, or None if not stated."""
    return Provenance(
        path=path,
        format="dicom",
        modality=kind,
        study_uid=str(dataset.get("StudyInstanceUID") or ""),
        series_uid=str(dataset.get("SeriesInstanceUID") or ""),
        files=(path,),
        frame_of_reference=str(frame_of_reference or ""),
    )
