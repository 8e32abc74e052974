"""Walk a folder tree, and check which paths may be opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

from med_transfer.errors import NotAScan, ScanNotFound, UnreadableScan
from med_transfer.errors.sentence import Sentence

NOT_REGULAR = Sentence("a pipe, socket or device, not a regular file")


def files_below(
    folder: Path, is_wanted: Callable[[os.DirEntry[str]], bool], unreadable: Callable[[Path, OSError], None]
) -> Iterator[Path]:
    """Yield files sorted by name, a folder's own before those of its subfolders; each folder once, even with links.

    Works at any depth: os.walk of Python 3.11 recurses for every level.

    Args:
        folder: root of the tree.
        is_wanted: whether to yield a file, or to enter a folder.
        unreadable: called with each folder that cannot be opened.
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
    """Real path of a folder in ``parent``, None for anything else; only links need the slower ``realpath``."""
    try:
        if not entry.is_dir():
            return None
        return os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(parent, entry.name)  # noqa: PTH118
    except OSError:  # a link to itself
        return None


def require_exists(path: Path) -> None:
    """Check that a path is a folder or a regular file; reading a pipe may block, a device may never end.

    Raises:
        ScanNotFound: it does not exist.
        UnreadableScan: no permission to look.
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
