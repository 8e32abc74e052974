"""Protect files from being overwritten: a command may replace its own tables, never what a user made or labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from med_transfer.atomic import output_error, require_writable, write_bytes
from med_transfer.cohorts.sheet import header_of
from med_transfer.errors import CohortError, OutputError, UsageError
from med_transfer.errors.sentence import few


def require_replaceable(out: Path, columns: Sequence[str], *read: Path | None) -> None:
    """Check, before any work is done, that writing a table will not destroy data that only the user could restore.

    Args:
        out: where the table will be written.
        columns: columns of the new table. An existing table with other columns is refused, since a user added them.
        read: files that the table is made from; ``out`` must not be one of them.

    Raises:
        UsageError: data would be lost.
        OutputError: ``out`` is a folder, or cannot be written.
    """
    try:
        is_folder, is_there = out.is_dir(), out.exists()
    except OSError as error:
        raise output_error(out, error) from error
    if is_folder:
        raise OutputError("cannot be written: a folder has this name", where=out, action="Choose another -o")
    require_writable(out)
    if not is_there:
        return
    if any(file is not None and file.exists() and file.samefile(out) for file in read):
        raise _refused("the file that is read is the one to write", out)
    try:
        lost = [name for name in header_of(out) if name not in columns]
    except CohortError as error:
        raise _refused(f"a file that is no such table ({error.found})", out) from error
    if lost:
        raise _refused(f"a table is there, whose columns {few(lost)} would be lost", out)


def replace_keeping(out: Path, content: bytes, own: Sequence[str]) -> Path | None:
    """Write a table, keeping a differing earlier one with the user's columns beside it as ``cohort.before.csv``.

    Earlier backups are not overwritten: the next is ``cohort.before2.csv``.

    Args:
        out: where the table is written.
        content: the new table.
        own: columns derived from the scans; a table with only these holds nothing that a user could have edited.

    Returns:
        Path of the backup; None if none was needed.

    Raises:
        OutputError: the table cannot be read or written.
    """
    before = None
    try:
        there = out.read_bytes() if out.exists() else content
    except OSError as error:
        raise output_error(out, error) from error
    if there != content and not set(header_of(out)) <= set(own):
        before = back_up(out, there)
    write_bytes(out, content)
    return before


def back_up(out: Path, there: bytes) -> Path:
    """Back up content that is about to be overwritten, as ``NAME.before.EXT``; return the path. Raises OutputError."""
    names = (out.with_name(f"{out.stem}.before{number or ''}{out.suffix}") for number in (0, *range(2, 10_000)))
    before = next(name for name in names if not name.exists() or name.read_bytes() == there)
    write_bytes(before, there)
    return before


def _refused(found: str, out: Path) -> UsageError:
    return UsageError(found, where=out, expected="a new name for the table to write", action="Choose another -o")
