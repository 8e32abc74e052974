"""``predictions.csv`` again, as Parquet or as a sheet of Excel, with numbers as numbers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from med_transfer.atomic import atomic_path
from med_transfer.errors import OutputError, UsageError, not_installed, printable
from med_transfer.predictions.table import read_cells

TableFormat = Literal["parquet", "xlsx"]
_PACKAGES: dict[TableFormat, str] = {"parquet": "pyarrow", "xlsx": "openpyxl"}
_MOST_ROWS = 1_048_575  # of a sheet, below its header


def known_formats(names: Sequence[str]) -> list[TableFormat]:
    """Those that can be written here. Raises UsageError for another one, MissingExtra."""
    if unknown := [name for name in names if name not in _PACKAGES]:
        raise UsageError(f"format {unknown[0]!r}", where="--also", expected=" or ".join(_PACKAGES))
    known: list[TableFormat] = [kind for kind in _PACKAGES if kind in names]
    for kind in known:
        require_format(kind)
    return known


def require_format(kind: TableFormat) -> Any:
    """The package that writes it. Raises MissingExtra."""
    try:
        return importlib.import_module(_PACKAGES[kind])
    except ImportError as error:
        raise not_installed(_PACKAGES[kind], "tables", f".{kind}") from error


def write_table_as(kind: TableFormat, table: Path) -> Path:
    """Beside the table, under its name. Raises MissingExtra, UsageError (no table), OutputError."""
    header, *rows = read_cells(table)
    package, out = require_format(kind), table.with_suffix(f".{kind}")
    values = [[_value(name, cell) for name, cell in zip(header, row, strict=True)] for row in rows]
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
    return printable(cell)  # what is no Unicode, or commands a terminal, is written out


def _write_parquet(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    kinds = {bool: arrow.bool_(), float: arrow.float64(), str: arrow.string()}
    fields = [(name, kinds[float if (kind := type(_value(name, ""))) is type(None) else kind]) for name in header]
    columns = [[row[place] for row in rows] for place in range(len(header))]
    arrays = [arrow.array(column, kind) for column, (_, kind) in zip(columns, fields, strict=True)]
    parquet.write_table(arrow.Table.from_arrays(arrays, schema=arrow.schema(fields)), path)


def _write_sheet(package: Any, path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if len(rows) > _MOST_ROWS:
        raise OutputError(f"{len(rows):,} rows", where=path, expected=f"at most {_MOST_ROWS:,}, as Excel takes them")
    book = package.Workbook(write_only=True)
    sheet, cell_of = book.create_sheet("predictions"), importlib.import_module("openpyxl.cell").WriteOnlyCell
    for row in (header, *rows):
        cells = [cell_of(sheet, value=value) for value in row]
        for cell, value in zip(cells, row, strict=True):
            if isinstance(value, str):
                cell.data_type = "s"  # a text that begins with = is no formula
        sheet.append(cells)
    book.save(path)
