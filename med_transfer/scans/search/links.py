"""Symbolic links in a folder tree: no file is read twice, and links to folders outside need permission.

A folder from outside may contain a link to any other folder of the machine, and links may show a file many times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from med_transfer.errors.sentence import Sentence
from med_transfer.scans.search.files import files_below
from med_transfer.scans.series import Ignored

FOLLOW = "MED_TRANSFER_FOLLOW_LINKS"
BROKEN = Sentence("broken link")
_ELSEWHERE = Sentence("link to a folder elsewhere, not followed ({setting}=1 follows it)", setting=FOLLOW)


def visible_files(
    folder: Path,
    left_out: Callable[[Path, str], None] = lambda *_: None,
    unreadable: Callable[[Path, OSError], None] = lambda *_: None,
) -> Iterator[Path]:
    """Yield the files below a folder, sorted by name, without hidden ones and links not to be followed.

    Args:
        folder: root of the tree.
        left_out: called with each link that is not followed, and why.
        unreadable: called with each folder that cannot be opened.
    """
    tree = os.path.realpath(folder)

    def is_wanted(entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith("."):
            return False
        reason = reason_not_followed(Path(entry.path), tree) if entry.is_symlink() else ""
        if reason:
            left_out(Path(entry.path), reason)
        return not reason

    return files_below(folder, is_wanted, unreadable)


def reason_not_followed(link: Path, tree: str) -> str:
    """Why a link is not followed; empty if it is.

    Args:
        link: a symbolic link.
        tree: real path of the folder that is searched.
    """
    target = os.path.realpath(link)
    if not os.path.exists(target):  # noqa: PTH110  handles circular links and overlong names
        return BROKEN
    names = Path(os.path.relpath(target, tree)).parts or (os.curdir,)
    inside = names[0] != os.pardir
    if inside and not any(name.startswith(".") for name in names if name != os.curdir):
        return Sentence("link to something that is found at its own place")
    if not inside and os.path.isdir(target) and os.environ.get(FOLLOW, "") not in ("1", "true"):  # noqa: PTH112
        return _ELSEWHERE
    return ""


def follow_links_advice(ignored: Iterable[Ignored]) -> str:
    """Advice if links to folders elsewhere were not followed; else empty."""
    if any(file.reason == _ELSEWHERE for file in ignored):
        return Sentence("{setting}=1 follows the links to folders elsewhere", setting=FOLLOW)
    return ""
