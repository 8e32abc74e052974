"""Files that appear whole or not at all, written beside their place and renamed into it; CSV that runs nowhere.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula and runs it when the file is
opened, whoever named the scan, the class or the patient so. Such a cell is written with an apostrophe before it, which
every reader of the program takes off again: see :func:`csv_line` and :func:`csv_cell`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from med_transfer.errors import OutputError

# The full-width forms count where the keyboard is Chinese or Japanese. A sign alone is a value, as in "pos +".
_FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠].", re.DOTALL)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to; it becomes ``path`` when the block ends without an error.

    The sibling keeps the file's suffixes, because some writers choose the format by them. Missing parent
    folders are made. A reader sees the old file or the new one, never half of one.

    Raises:
        OutputError: the file cannot be written (disk full, no permission, a folder in its place).
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        _remove(temporary)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with ``\\n`` at the end of lines. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table atomically; a row says what it knows of the columns. Raises OutputError."""
    lines = [columns, *([row.get(name) for name in columns] for row in rows)]
    write_bytes(path, "".join(map(csv_line, lines)).encode("utf-8", "surrogateescape"))  # file names may be no UTF-8


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


def output_error(path: Path, error: OSError) -> OutputError:
    """The error tree's word for a failed write."""
    reason = error.strerror or type(error).__name__
    return OutputError(f"cannot be written: {reason}", where=path, action="Free disk space, or choose another folder")


def _flush_to_disk(path: Path) -> None:
    # Without this a power cut just after the rename can leave an empty file under the final name.
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the parent is not a folder or not ours: then there is nothing of ours in it
