"""One row of the cohort table: a scan, its patient, its label, and its region of interest."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from med_transfer.cohorts.label_text import is_missing, lacks_identifier
from med_transfer.cohorts.sheet import Row, Sheet
from med_transfer.errors import CohortError

SPLIT_WORDS = ("train", "val", "test")
ROI_COLUMNS = ("roi_x_mm", "roi_y_mm", "roi_z_mm", "roi_size_mm")
FINDING_PREFIX = "label_"
_OF_CHANNELS = ("scan_", "series_uid_")  # columns of further scans
_RESERVED = {"scan", "series_uid", "patient", "label", "mask", "mask_name", "split", "choice", *ROI_COLUMNS}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        scan: path as written in the table; ``path`` is the absolute one.
        label: class name; for multi-label tables, the set of findings present; None when unlabelled.
        roi_centre_mm: centre of the region of interest, in LPS mm.
        roi_size_mm: edge length of the cube around the centre.
        mask_name: segment, ROI or label value to use, where the mask holds several.
        split: train | val | test, or empty.
        columns: every other column, for subgroups and further channels.
        folder: folder of the table; paths in ``columns`` are relative to it.
        row: line number in the table, for messages, or position in a list of scans, from 1; 0 if it has neither.
    """

    scan: str
    path: Path
    patient: str
    label: str | frozenset[str] | None
    series_uid: str = ""
    roi_centre_mm: tuple[float, float, float] | None = None
    roi_size_mm: float | None = None
    mask: Path | None = None
    mask_name: str = ""
    split: str = ""
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    folder: Path = field(default=Path(), compare=False)
    row: int = field(default=0, compare=False)

    def scan_in(self, column: str) -> tuple[Path, str] | None:
        """Return path and series UID of the scan that a column names; None if the cell is empty or the column absent.

        Besides ``scan`` with ``series_uid``, a table may have ``scan_<name>`` with ``series_uid_<name>``.
        """
        if column == "scan":
            return self.path, self.series_uid
        name = self.columns.get(column, "")
        series_uid = self.columns.get(f"series_uid{column.removeprefix('scan')}", "")
        return (_absolute(self.folder, name), series_uid) if name else None

    @property
    def within(self) -> Literal["mask", "roi", "whole"]:
        """Where handcrafted features are measured; matches :func:`med_transfer.cohorts.region_of_case`."""
        if self.mask is not None:
            return "mask"
        return "whole" if self.roi_centre_mm is None else "roi"

    def __str__(self) -> str:
        """Name of the case in messages: row and file, never the patient."""
        return f"row {self.row} ({self.scan})" if self.row else self.scan


def read_case(sheet: Sheet, row: Row, label: str | frozenset[str] | None) -> Case:
    """Return the case of a row. Raises CohortError, naming row and column, for an invalid value."""
    if "scan" in sheet.columns and not row.get("scan"):
        raise CohortError(f"row {row.line} has no scan", where=sheet.path, expected="a value in every row")
    if "patient" in sheet.columns and lacks_identifier(row.get("patient")):
        patient = f" ({row.get('patient')})" if row.get("patient") else ""
        raise CohortError(
            f"row {row.line} has no patient{patient}",
            where=sheet.path,
            expected="a value in every row, which no spreadsheet has rounded",
        )
    split, mask = _given(row, "split"), _given(row, "mask")
    if split and split not in SPLIT_WORDS:
        raise wrong_value(sheet, row, "split", ", ".join(SPLIT_WORDS))
    centre, size = _region(sheet, row)
    return Case(
        scan=row.get("scan"),
        path=_absolute(sheet.path.parent, row.get("scan")),
        patient=row.get("patient"),
        label=label,
        series_uid=_given(row, "series_uid"),
        roi_centre_mm=centre,
        roi_size_mm=size,
        mask=_absolute(sheet.path.parent, mask) if mask else None,
        mask_name=_given(row, "mask_name"),
        split=split,
        columns={
            name: _given(row, name) if name.startswith(_OF_CHANNELS) else text
            for name, text in row.cells.items()
            if name not in _RESERVED and not name.startswith(FINDING_PREFIX)
        },
        folder=sheet.path.parent,
        row=row.line,
    )


def _given(row: Row, column: str) -> str:
    """The cell, empty if it holds a program's marker of a missing value."""
    cell = row.get(column)
    return "" if is_missing(cell) else cell


def _absolute(folder: Path, name: str) -> Path:
    return Path(os.path.abspath(folder / name))  # noqa: PTH100  resolve() would follow links


def _region(sheet: Sheet, row: Row) -> tuple[tuple[float, float, float] | None, float | None]:
    if not any(_given(row, column) for column in ROI_COLUMNS):
        return None, None
    x, y, z, size = (_millimetres(sheet, row, column) for column in ROI_COLUMNS)
    if size <= 0:
        raise wrong_value(sheet, row, "roi_size_mm", "a size above 0 mm")
    return (x, y, z), size


def _millimetres(sheet: Sheet, row: Row, column: str) -> float:
    try:
        value = float(row.get(column))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise wrong_value(sheet, row, column, "a number in mm, in all four region columns or in none")
    return value


def wrong_value(sheet: Sheet, row: Row, column: str, expected: str) -> CohortError:
    """Return the CohortError for an invalid cell."""
    return CohortError(f"row {row.line} has {column} {row.get(column)!r}", where=sheet.path, expected=expected)
