"""CSV tables that are safe to open in a spreadsheet.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@`` as a formula when the file is opened, and names
of scans, classes and patients come from outside (CSV injection). Such a cell is written with a leading apostrophe
(:func:`csv_line`), which every reader in this package removes (:func:`csv_cell`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from med_transfer.atomic import write_bytes

# Excel in Chinese or Japanese also accepts the full-width signs. A sign alone is a value, such as a test result "+".
_FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠].", re.DOTALL)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table atomically; a column that a row lacks is left empty. Raises OutputError."""
    write_bytes(path, csv_bytes(columns, rows))


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """A table as UTF-8 CSV, header included; a column that a row lacks is left empty."""
    lines = [columns, *([row.get(name) for name in columns] for row in rows)]
    return "".join(map(csv_line, lines)).encode("utf-8", "surrogateescape")  # file names need not be UTF-8


def csv_line(cells: Iterable[object]) -> str:
    """One CSV record with its line end; None is an empty cell, and a formula gets a leading apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # it quotes cells with \r or \n only if its own line end has them
    writer.writerow([f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in cells])
    return text.getvalue().removesuffix("\r\n") + "\n"


def csv_cell(text: str) -> str:
    """A cell's text without the apostrophe that :func:`csv_line` added."""
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(cell: str) -> bool:
    """Whether a spreadsheet would run the cell as a formula, leading apostrophes ignored."""
    return bool(_FORMULA.match(cell)) and not _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
