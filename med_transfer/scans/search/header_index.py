"""What was read of a folder tree's headers, kept, so that a second survey of an unchanged tree reads none again.

One file a tree, in the user's cache folder, readable by its owner only. It holds no patient's name, identifier or date
(see :class:`Slice`), and can be deleted at any time. A file counts as unchanged while its size and time of change are
the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from med_transfer.atomic import atomic_path
from med_transfer.errors import OutputError
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Verdict

log = logging.getLogger(__name__)

Stamp = tuple[int, int]
FileContent = tuple[Slice, ...] | Series | str  # images, a volume file, or why the file is no scan
_SCHEMA = 4  # raise it when Slice or an entry changes its meaning
_MIN_FILES = 64  # below that, reading the headers is as quick as reading an index
_KEPT = 100  # trees


@dataclass(frozen=True)
class _VolumeFile:
    format: str
    n_slices: int
    verdict: Verdict
    affine: tuple[float, ...]


@dataclass(frozen=True)
class _Entry:
    stamp: Stamp
    slices: tuple[Slice, ...] = ()
    volume: _VolumeFile | None = None
    no_scan: str = ""


@dataclass(frozen=True)
class _Stored:
    schema: int
    files: dict[str, _Entry]


_ADAPTER = TypeAdapter(_Stored)


class HeaderIndex:
    """What each file of one tree holds. ``MED_TRANSFER_CACHE`` names another cache folder; ``off`` keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._path = _place(folder)
        self._entries = _load(self._path)
        self._seen: dict[str, _Entry] = {}
        self._changed = False

    def get(self, path: Path, stamp: Stamp) -> FileContent | None:
        """What was seen in this file, if it has not changed since."""
        name = self._name(path)
        entry = self._entries.get(name)
        if entry is None or entry.stamp != stamp:
            return None
        self._seen[name] = entry
        if entry.volume:
            return _series(path, entry.volume)
        return entry.no_scan or tuple(replace(slice_, path=path) for slice_ in entry.slices)

    def put(self, path: Path, stamp: Stamp, content: FileContent) -> None:
        """Remember what a file holds, as long as its size and time of change stay those of ``stamp``."""
        self._changed = True
        self._seen[self._name(path)] = _entry(stamp, content)

    def save(self) -> None:
        """Keep what was seen. A cache folder that cannot be written is no error: the next survey reads again."""
        gone = len(self._seen) < len(self._entries)
        if self._path is None or not (self._changed or gone) or len(self._seen) < _MIN_FILES:
            return
        try:
            with atomic_path(self._path) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(_ADAPTER.dump_json(_Stored(_SCHEMA, self._seen)))
            _forget_the_oldest(self._path.parent)
        except (OutputError, OSError) as error:
            log.debug("index of headers not kept: %s", error)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _place(folder: Path) -> Path | None:
    chosen = os.environ.get("MED_TRANSFER_CACHE", "")
    if chosen == "off":
        return None
    try:
        base = Path(chosen or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # an account without a home
        return None
    base = base if chosen else base / "med_transfer"
    return base / "headers" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]}.json"


def _load(path: Path | None) -> dict[str, _Entry]:
    if path is None:
        return {}
    try:
        stored = _ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError):  # absent, another version's, or cut off: read the headers
        return {}
    return stored.files if stored.schema == _SCHEMA else {}


def _entry(stamp: Stamp, content: FileContent) -> _Entry:
    if isinstance(content, str):
        return _Entry(stamp, no_scan=content)
    if isinstance(content, Series):
        affine = () if content.affine is None else tuple(float(number) for number in content.affine.ravel())
        return _Entry(stamp, volume=_VolumeFile(content.format, content.n_slices, content.verdict, affine))
    return _Entry(stamp, slices=tuple(replace(slice_, path=Path()) for slice_ in content))


def _series(path: Path, stored: _VolumeFile) -> Series:
    affine = np.array(stored.affine).reshape(4, 4) if stored.affine else None
    return Series(path, (path,), stored.format, "", "", "", stored.n_slices, stored.verdict, affine=affine)


def _forget_the_oldest(folder: Path) -> None:
    trees = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in trees[_KEPT:]:
        path.unlink(missing_ok=True)
