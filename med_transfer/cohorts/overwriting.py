"""What a command may write a table over: one of its own, never what a user has made or labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from med_transfer.atomic import output_error, require_writable, write_bytes
from med_transfer.cohorts.sheet import header_of
from med_transfer.errors import CohortError, OutputError, UsageError
from med_transfer.errors.sentence import few


def refuse_to_lose(out: Path, columns: Sequence[str], *read: Path | None) -> None:
    """Before the work: what is to be written takes nothing away that only a user could write again.

    Args:
        out: where the table is to be written.
        columns: that it will have. One that is there may have fewer, not others: those are somebody's.
        read: files that the table is made from.

    Raises:
        UsageError: it would.
        OutputError: a folder is there, or nothing can be written.
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
    """Write a table; one that was there, with labels that were others, stays beside it as ``cohort.before.csv``.

    What stays there already is left: the next is ``cohort.before2.csv``.

    Args:
        out: where it is written.
        content: of the new table.
        own: columns that come from the scans; a table of these alone holds nothing that a user could have corrected.

    Returns:
        The table of before, if it was kept.

    Raises:
        OutputError: it cannot be read or written.
    """
    before = None
    try:
        there = out.read_bytes() if out.exists() else content
    except OSError as error:
        raise output_error(out, error) from error
    if there != content and not set(header_of(out)) <= set(own):
        before = put_aside(out, there)
    write_bytes(out, content)
    return before


def put_aside(out: Path, there: bytes) -> Path:
    """Keep what is about to be written over beside it, as ``NAME.before.EXT``. Raises OutputError."""
    names = (out.with_name(f"{out.stem}.before{number or ''}{out.suffix}") for number in (0, *range(2, 10_000)))
    before = next(name for name in names if not name.exists() or name.read_bytes() == there)
    write_bytes(before, there)
    return before


def _refused(found: str, out: Path) -> UsageError:
    return UsageError(found, where=out, expected="a new name for the table to write", action="Choose another -o")
