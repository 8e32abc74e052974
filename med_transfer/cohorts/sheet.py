"""Read a spreadsheet saved as CSV: its columns, and its rows as text with their line numbers."""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from med_transfer.atomic.csv_table import csv_cell
from med_transfer.cohorts.label_text import is_missing
from med_transfer.errors import CohortError

_NAMES = {"scan", "series_uid", "patient", "label", "mask", "split"}  # columns that do not hold measurements
_BYTE_ORDER_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_DELIMITER_LINE = re.compile(r"sep=([,;\t|])\s*?(?:\r\n|\r|\n)", re.IGNORECASE)  # first line, for spreadsheets
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        line: where the row starts in the file; the header is line 1.
        cells: text by column, without surrounding white space and the apostrophe that marks text in a spreadsheet.
    """

    line: int
    cells: Mapping[str, str]

    def get(self, column: str) -> str:
        """Return the cell, or an empty string if the table has no such column."""
        return self.cells.get(column, "")


@dataclass(frozen=True)
class Sheet:
    """A table as read: every cell is text without surrounding white space.

    Attributes:
        path: the file.
        columns: column names, in order.
        rows: the non-blank rows.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def require(self, column: str) -> None:
        """Raise CohortError, listing the existing columns, if this one is missing."""
        if column in self.columns:
            return
        alike = {name.lower(): name for name in self.columns}
        near = difflib.get_close_matches(column, alike, n=1)
        raise CohortError(
            f"no column {column!r}",
            where=self.path,
            expected=f"it among {', '.join(self.columns)}",
            action=f"Rename {alike[near[0]]!r} to {column!r}" if near else f"Add a column {column!r}",
        )


def read_sheet(path: Path) -> Sheet:
    """Read a CSV file delimited by comma, semicolon or tab, in UTF-8 with or without a byte order mark.

    Values stay text, so ``007`` does not become ``7``. Blank rows are skipped. With semicolons as delimiter, the
    comma is a decimal separator: ``12,5`` is read as ``12.5`` in every column of measurements. With another delimiter
    this holds only for columns of nothing but numbers, unless all their commas separate thousands.

    Raises:
        CohortError: the file is missing, empty or not text, a column appears twice or has values but no name, or a
            row has another length than the header.
    """
    path = Path(path)
    text = _text(path)
    records = list(_records(text, path))
    if not records:
        raise CohortError("the table is empty", where=path, expected="a header row and one row a scan")
    (first, header), *records = records
    _require_text(first, header, path)
    _check_header(header, path)
    if not records:
        raise CohortError("the table has a header and no rows", where=path, expected="one row a scan")
    measured = set(header) - _NAMES
    if _delimiter(text) != ";":  # spreadsheets write semicolons where the comma is the decimal separator
        measured = {name for name in measured if _has_decimal_commas([_cell(header, row, name) for _, row in records])}
    rows = tuple(_row(line, values, header, path, measured) for line, values in records)
    return Sheet(path, tuple(name for name in header if name), rows)


def plain(column: str) -> str:
    """Return a column's name without case, spaces, punctuation and the unit mm, which people write differently."""
    return re.sub(r"[\W_]", "", column).casefold().removesuffix("mm")


def header_of(path: Path) -> tuple[str, ...]:
    """Return a table's column names; none for an empty file. Raises CohortError if the file is not text or not CSV."""
    _, header = next(_records(_text(path), path), (1, []))
    return tuple(name for name in header if name)


def _text(path: Path) -> str:
    """Text of the file; bytes that are not UTF-8 become lone surrogates, since file names may contain them."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CohortError(error.strerror or "cannot be read", where=path, expected="a CSV file") from error
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise CohortError("is an Excel workbook", where=path, expected="CSV", action="Save the sheet as 'CSV UTF-8'")
    text = content.decode("utf-8", "surrogateescape")
    return text.lstrip(_BYTE_ORDER_MARK)  # there are two if a program added one to another's


def _records(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped values of every non-blank record."""
    declared = _DELIMITER_LINE.match(text)
    content = io.StringIO(text[declared.end() :] if declared else text, newline="")
    reader = csv.reader(content, delimiter=_delimiter(text), strict=True)
    skipped = 1 if declared else 0
    line = 1 + skipped
    try:
        for values in reader:
            if any(value.strip() for value in values):
                yield line, [csv_cell(value.strip()) for value in values]
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        raise CohortError(f"row {line} is not valid CSV: {error}", where=path) from error


def _delimiter(text: str) -> str:
    if declared := _DELIMITER_LINE.match(text):
        return declared[1]
    unquoted = re.sub(r'"[^"]*"', "", text)  # a quoted column name may contain commas and line breaks
    header = next((line for line in unquoted.splitlines() if line.strip()), "")
    return max(",;\t", key=header.count)


def _require_text(line: int, values: Iterable[str], path: Path) -> None:
    """Raise CohortError for a cell that is not UTF-8, unless it names an existing file."""
    odd = [value for value in values if any("\ud800" <= sign <= "\udfff" for sign in value)]
    if not all(os.path.exists(path.parent / value) for value in odd):  # noqa: PTH110  Path.exists() raises
        raise CohortError(
            f"row {line} is not UTF-8 text", where=path, expected="UTF-8", action="Save the sheet as 'CSV UTF-8'"
        )


def _check_header(header: list[str], path: Path) -> None:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise CohortError(f"column {twice[0]!r} appears twice", where=path, expected="each column once")


def _cell(header: list[str], values: list[str], name: str) -> str:
    """The cell of a column; empty in a row that is too short, which is refused later."""
    place = header.index(name)
    return values[place] if place < len(values) else ""


def _has_decimal_commas(cells: list[str]) -> bool:
    filled = [cell for cell in cells if not is_missing(cell)]
    with_comma = [cell for cell in filled if "," in cell]
    return all(map(_NUMBER.fullmatch, filled)) and not all(map(_THOUSANDS.fullmatch, with_comma))


def _row(line: int, values: list[str], header: list[str], path: Path, decimal_comma: set[str]) -> Row:
    if len(values) != len(header):
        raise CohortError(
            f"row {line} has {len(values)} values",
            where=path,
            expected=f"{len(header)}, as many as the header",
            action="Put values that hold a comma in double quotes",
        )
    cells = list(zip(header, values, strict=True))
    # Spreadsheets leave empty, unnamed columns at the right edge; a value in one is a mistake.
    if any(value and not name for name, value in cells):
        raise CohortError(f"row {line} has a value in a column without a name", where=path, action="Name the column")
    _require_text(line, values, path)
    return Row(line, {name: _with_point(value) if name in decimal_comma else value for name, value in cells if name})


def _with_point(value: str) -> str:
    """Replace the decimal comma of a number by a point; other text is returned unchanged."""
    return value.replace(",", ".") if _DECIMAL_COMMA.fullmatch(value) else value
