"""The files of a folder tree, and what of them may be opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

from med_transfer.errors import NotAScan, ScanNotFound, UnreadableScan
from med_transfer.errors.sentence import Sentence

NOT_REGULAR = Sentence("a pipe, socket or device, not a regular file")


def files_below(
    folder: Path,
    is_wanted: Callable[[os.DirEntry[str]], bool],
    unreadable: Callable[[Path, OSError], None] = lambda *_: None,
) -> Iterator[Path]:
    """Files in order of name, those of a folder before those of its folders; each folder once, wherever links lead.

    However deep: os.walk of Python 3.11 calls itself for every level.

    Args:
        folder: where to begin.
        is_wanted: whether to look at a file, or into a folder.
        unreadable: told of each folder that cannot be opened.
    """
    seen: set[str] = set()
    pending = [(folder, os.path.realpath(folder))]
    while pending:
        parent, real = pending.pop()
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(parent) as found:
                entries = list(filter(is_wanted, sorted(found, key=attrgetter("name"))))
        except OSError as error:
            unreadable(parent, error)
            continue
        folders = {entry.name: _real_folder(entry, real) for entry in entries}
        yield from (Path(parent, name) for name, inside in folders.items() if inside is None)
        pending += [(Path(parent, name), inside) for name, inside in reversed(folders.items()) if inside is not None]


def _real_folder(entry: os.DirEntry[str], parent: str) -> str | None:
    """Where a folder in ``parent`` really lies; None: no folder. Only a link needs every level above it looked at."""
    try:
        if not entry.is_dir():
            return None
        return os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(parent, entry.name)  # noqa: PTH118
    except OSError:  # a link to itself
        return None


def require_exists(path: Path) -> None:
    """What is read must be there, a folder or a regular file: a pipe would be waited for, a device never ends.

    Raises:
        ScanNotFound: nothing there.
        UnreadableScan: permissions hide the answer.
        NotAScan: a pipe, socket or device.
    """
    try:
        exists, usable = path.exists(), path.is_file() or path.is_dir()
    except PermissionError as error:
        raise UnreadableScan("no permission to look into the folder", where=path) from error
    except OSError as error:  # a name that is too long
        raise ScanNotFound(
            Sentence("no such file or folder ({kind})", kind=type(error).__name__), where=path
        ) from error
    if not exists:
        raise ScanNotFound("no such file or folder", where=path)
    if not usable:
        raise NotAScan(NOT_REGULAR, where=path, expected="a folder or a regular file")
