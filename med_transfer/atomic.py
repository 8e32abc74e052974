"""Files that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from med_transfer.errors import OutputError


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
