"""Links in a folder tree: what they lead to counts once, and none leads to a folder elsewhere unasked.

A folder from outside may hold a link to any other of the machine, and a tree of links may show each file many times.
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


def files_to_look_at(
    folder: Path,
    left_out: Callable[[Path, str], None] = lambda *_: None,
    unreadable: Callable[[Path, OSError], None] = lambda *_: None,
) -> Iterator[Path]:
    """Files below a folder, in order of name; hidden ones and most links left out.

    Args:
        folder: where to begin.
        left_out: told of each link that is not followed, and why.
        unreadable: told of each folder that cannot be opened.
    """
    tree = os.path.realpath(folder)

    def is_wanted(entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith("."):
            return False
        reason = passed_over(Path(entry.path), tree) if entry.is_symlink() else ""
        if reason:
            left_out(Path(entry.path), reason)
        return not reason

    return files_below(folder, is_wanted, unreadable)


def passed_over(link: Path, tree: str) -> str:
    """Why a link is not followed; empty for one that is.

    Args:
        link: a symbolic link.
        tree: the real path of the folder that is looked through.
    """
    target = os.path.realpath(link)
    if not os.path.exists(target):  # noqa: PTH110  which knows rings of links and names that are too long
        return BROKEN
    names = Path(os.path.relpath(target, tree)).parts or (os.curdir,)
    inside = names[0] != os.pardir
    if inside and not any(name.startswith(".") for name in names if name != os.curdir):
        return Sentence("link to what is found in its own place")
    if not inside and os.path.isdir(target) and os.environ.get(FOLLOW, "") not in ("1", "true"):  # noqa: PTH112
        return _ELSEWHERE
    return ""


def how_to_follow(ignored: Iterable[Ignored]) -> str:
    """What to do where links were not followed; empty where there were none."""
    if any(file.reason == _ELSEWHERE for file in ignored):
        return Sentence("{setting}=1 follows the links to folders elsewhere", setting=FOLLOW)
    return ""
