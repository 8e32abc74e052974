"""Convert ``predictions.csv`` to Parquet or Excel, with typed columns."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from med_transfer.atomic import atomic_path
from med_transfer.errors import OutputError, UsageError, not_installed, printable
from med_transfer.predictions.table import read_cells

TableFormat = Literal["parquet", "xlsx"]
_PACKAGES: dict[TableFormat, str] = {"parquet": "pyarrow", "xlsx": "openpyxl"}
TABLE_FORMATS = tuple(_PACKAGES)
_DECODED = re.compile("_(?=x[0-9A-Fa-f]{4}_)")  # Excel takes _x1024_ for the character of that number
_MAX_ROWS = 1_048_575  # of an Excel sheet, without the header
_MAX_CHARACTERS = 32_767  # of a cell of it; openpyxl cuts longer text off without a word


def known_formats(names: Sequence[str]) -> list[TableFormat]:
    """The requested formats, without duplicates. Raises UsageError for an unknown one, MissingExtra."""
    if unknown := [name for name in names if name not in _PACKAGES]:
        raise UsageError(f"format {unknown[0]!r}", where="--also", expected=" or ".join(_PACKAGES))
    known: list[TableFormat] = [kind for kind in _PACKAGES if kind in names]
    for kind in known:
        require_format(kind)
    return known


def require_format(kind: TableFormat) -> Any:
    """Import the package that writes a format. Raises MissingExtra."""
    try:
        return importlib.import_module(_PACKAGES[kind])
    except ImportError as error:
        raise not_installed(_PACKAGES[kind], "tables", f".{kind}") from error


def write_table_as(kind: TableFormat, table: Path) -> Path:
    """Write a table in another format, beside it under the same name; returns the path.

    Raises:
        MissingExtra: the package that writes the format is not installed.
        UsageError: not a prediction table.
        OutputError: the file cannot be written, or has too many rows or too long a text for Excel.
    """
    header, *rows = read_cells(table)
    package, out = require_format(kind), table.with_suffix(f".{kind}")
    if kind == "xlsx" and len(rows) > _MAX_ROWS:
        raise OutputError(f"{len(rows):,} rows", where=out, expected=f"at most {_MAX_ROWS:,}, as Excel takes them")
    values = [[_value(name, cell) for name, cell in zip(header, row, strict=True)] for row in rows]
    if kind == "xlsx":
        values = [_texts_of_a_sheet(header, row, number, out) for number, row in enumerate(values, start=2)]
    with atomic_path(out) as temporary:
        if kind == "parquet":
            _write_parquet(temporary, header, values)
        else:
            _write_sheet(package, temporary, header, values)
    return out


def _value(column: str, cell: str) -> str | float | bool | None:
    if column == "abstained":
        return cell == "true"
    if column in ("novelty", "seconds") or column.startswith(("p_", "fused_p_")):
        return float(cell) if cell else None
    return printable(cell)  # escapes invalid Unicode and terminal control characters


def _write_parquet(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    kinds = {bool: arrow.bool_(), float: arrow.float64(), str: arrow.string()}
    fields = [(name, kinds[float if (kind := type(_value(name, ""))) is type(None) else kind]) for name in header]
    columns = [[row[place] for row in rows] for place in range(len(header))]
    arrays = [arrow.array(column, kind) for column, (_, kind) in zip(columns, fields, strict=True)]
    with path.open("wb") as file:  # pyarrow takes a path only as UTF-8
        parquet.write_table(arrow.Table.from_arrays(arrays, schema=arrow.schema(fields)), file)


def _as_text(value: Any) -> Any:
    return _DECODED.sub("_x005F_", value) if isinstance(value, str) else value


def _texts_of_a_sheet(header: Sequence[str], row: Sequence[Any], number: int, out: Path) -> list[Any]:
    """A row's values, text in the characters of a sheet. Raises OutputError for text that is longer than a cell."""
    values = list(map(_as_text, row))
    for name, value in zip(header, values, strict=True):
        if isinstance(value, str) and len(value) > _MAX_CHARACTERS:
            raise OutputError(
                f"{len(value):,} characters in the column {name} of row {number}",
                where=out,
                expected=f"at most {_MAX_CHARACTERS:,}, as Excel takes them",
                action="Use the CSV file, or another format",
            )
    return values


def _write_sheet(package: Any, path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    book = package.Workbook(write_only=True)
    sheet, cell_of = book.create_sheet("predictions"), importlib.import_module("openpyxl.cell").WriteOnlyCell
    for row in (list(map(_as_text, header)), *rows):
        cells = [cell_of(sheet, value=value) for value in row]
        for cell, value in zip(cells, row, strict=True):
            if isinstance(value, str):
                cell.data_type = "s"  # text that begins with = is not a formula
        sheet.append(cells)
    book.save(path)
