"""Tables as CSV that runs nowhere.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula and runs it when the file is
opened, whoever named the scan, the class or the patient so. Such a cell is written with an apostrophe before it, which
every reader of the program takes off again: see :func:`csv_line` and :func:`csv_cell`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from med_transfer.atomic import write_bytes

# The full-width forms count where the keyboard is Chinese or Japanese. A sign alone is a value, as in "pos +".
_FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠].", re.DOTALL)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table atomically; a row says what it knows of the columns. Raises OutputError."""
    write_bytes(path, csv_bytes(columns, rows))


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """A table as it is written."""
    lines = [columns, *([row.get(name) for name in columns] for row in rows)]
    return "".join(map(csv_line, lines)).encode("utf-8", "surrogateescape")  # file names may be no UTF-8


def csv_line(cells: Iterable[object]) -> str:
    """One record with its line's end; None is an empty cell, and what would run as a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # it quotes only the line ends that it writes itself
    writer.writerow([f"'{cell}" if isinstance(cell, str) and _runs(cell) else cell for cell in cells])
    return text.getvalue().removesuffix("\r\n") + "\n"


def csv_cell(text: str) -> str:
    """A cell as it was before :func:`csv_line` quoted it."""
    return text[1:] if text.startswith("'") and _runs(text) else text


def _runs(cell: str) -> bool:
    """Whether a spreadsheet would take the cell, or what is left without its apostrophes, for a formula."""
    return bool(_FORMULA.match(cell)) and not _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
