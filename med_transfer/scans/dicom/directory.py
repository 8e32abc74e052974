"""Images that a DICOMDIR lists (DICOM PS3.3 annex F)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

NAME = "DICOMDIR"


def listed_images(directories: Iterable[Path]) -> dict[str, frozenset[str]]:
    """SOPInstanceUIDs that these DICOMDIRs list, by SeriesInstanceUID; unreadable ones are skipped."""
    listed: dict[str, set[str]] = defaultdict(set)
    for path in directories:
        try:
            for series, image in _images(pydicom.dcmread(path)):
                listed[series].add(image)
        except Exception:  # as with headers: corrupt bytes make a parser raise nearly anything
            continue
    return {series: frozenset(images) for series, images in listed.items()}


def _images(directory: Dataset) -> Iterator[tuple[str, str]]:
    """(SeriesInstanceUID, SOPInstanceUID) of each image record below a series record."""
    records = {int(record.seq_item_tell): record for record in directory.DirectoryRecordSequence}
    for series in records.values():
        if series.DirectoryRecordType == "SERIES":
            for record in _chain(records, int(series.OffsetOfReferencedLowerLevelDirectoryEntity)):
                if image := record.get("ReferencedSOPInstanceUIDInFile"):
                    yield str(series.SeriesInstanceUID), str(image)


def _chain(records: Mapping[int, Dataset], offset: int) -> Iterator[Dataset]:
    """The record at this file offset and its successors in the linked list, each once even if the list is circular."""
    seen: set[int] = set()
    while offset in records and offset not in seen:
        seen.add(offset)
        yield records[offset]
        offset = int(records[offset].OffsetOfTheNextDirectoryRecord)
