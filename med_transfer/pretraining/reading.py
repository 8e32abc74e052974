"""From a folder of scans to the source of a pretraining."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from med_transfer.errors import ScanError
from med_transfer.pretraining.source import SourceScans
from med_transfer.scans import Volume, find_series, read_scan

_log = logging.getLogger(__name__)


def read_source(scans: Path, spacing_mm: float = 1.0) -> SourceScans:
    """The usable scans of a folder tree, or of a file that ``SourceScans.save`` wrote.

    A scan that cannot be used is logged and left out.

    Raises:
        ScanNotFound: nothing usable is there.
    """
    if scans.suffix == ".npz":
        return SourceScans.load(scans)
    return SourceScans.from_volumes(_volumes(scans), spacing_mm)


def _volumes(folder: Path) -> Iterator[Volume]:
    for series in find_series(folder):
        try:
            yield read_scan(series)
        except ScanError as error:
            _log.warning("left out: %s", error)
