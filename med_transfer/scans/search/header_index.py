"""Cache of the headers of a folder tree, so that another survey does not read unchanged files again.

There is one SQLite file per tree, in the user's cache folder, readable by its owner only. It contains no patient name,
identifier or date (see :class:`Slice`), and can be deleted at any time. A file is unchanged if its size, mtime, ctime
and inode are; a copy that preserves size and mtime (``rsync -t``) is not. Entries are parsed and written one at a time,
so memory does not grow with their number.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import sqlite3
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from med_transfer.atomic import atomic_path
from med_transfer.errors import OutputError
from med_transfer.errors.sentence import IN_PARTS, Text
from med_transfer.scans.dicom.elements import NO_STAMP, Stamp
from med_transfer.scans.dicom.header import Slice
from med_transfer.scans.series import Series
from med_transfer.scans.verdict import Verdict

log = logging.getLogger(__name__)

FileContent = tuple[Slice, ...] | Series | str  # images, a volume file, or why the file is not a scan
_SCHEMA = 9  # increase it when the meaning of Slice or of an entry changes
# Part of the key because verdicts on volume files are stored, and another version may judge differently.
_VERSION = importlib.metadata.version("med-transfer")
_USER_VERSION = zlib.crc32(f"{_SCHEMA} {_VERSION}".encode()) >> 1  # SQLite's user_version is a signed 32-bit number
_MIN_FILES = 64  # for fewer, reading the headers is as fast as reading an index
_KEPT = 100  # number of trees
_CREATE = "CREATE TABLE files (name BLOB PRIMARY KEY, stamp TEXT, entry BLOB) WITHOUT ROWID"
_INSERT = "INSERT OR REPLACE INTO files VALUES (?, ?, ?)"
_SELECT = "SELECT name, stamp, entry FROM files WHERE name = ?"


@dataclass(frozen=True)
class _VolumeFile:
    format: str
    n_slices: int
    verdict: Verdict
    affine: tuple[float, ...]


@dataclass(frozen=True)
class _Entry:
    slices: tuple[Slice, ...] = ()
    volume: _VolumeFile | None = None
    no_scan: Text = ""


_ADAPTER = TypeAdapter(_Entry)


class HeaderIndex:
    """Content of each file of one tree. ``MED_TRANSFER_CACHE`` sets the cache folder; ``off`` disables the cache."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._path = _index_file(folder)
        self._stored, self._n_stored = _opened(self._path)
        self._unchanged: list[bytes] = []
        self._read = sqlite3.connect("")  # a temporary database, removed when the connection closes
        self._read.execute(_CREATE)
        self._n_read = 0

    def get(self, path: Path, stamp: Stamp) -> FileContent | None:
        """The stored content of a file, or None if it is not stored or has changed."""
        row = self._row(self._name(path))
        if row is None or row[1] != _stamp_text(stamp):
            return None
        try:
            entry = _ADAPTER.validate_json(row[2])
        except ValidationError:  # damaged index: the header is read instead
            return None
        self._unchanged.append(row[0])
        if entry.volume:
            return _series(path, entry.volume)
        return entry.no_scan or tuple(replace(slice_, path=path, stamp=stamp) for slice_ in entry.slices)

    def put(self, path: Path, stamp: Stamp, content: FileContent) -> None:
        """Store the content of a file under its stamp."""
        if self._path is None:
            return
        try:
            self._read.execute(
                _INSERT, (self._name(path), _stamp_text(stamp), _ADAPTER.dump_json(_entry(content), context=IN_PARTS))
            )
            self._n_read += 1
        except sqlite3.Error as error:  # no room for temporary files
            log.debug("index of headers not kept: %s", error)
            self._path = None

    def save(self) -> None:
        """Write the index, if anything changed. Failure is not an error: the next survey reads the headers again."""
        n_seen = self._n_read + len(self._unchanged)
        if self._path is None or n_seen < _MIN_FILES or not (self._n_read or n_seen < self._n_stored):
            return
        try:
            self._read.executemany(_INSERT, filter(None, map(self._row, self._unchanged)))
            self._read.execute(f"PRAGMA user_version = {_USER_VERSION}")
            self._read.commit()
            with atomic_path(self._path, mode=0o600) as temporary:
                self._read.execute("VACUUM INTO ?", (str(temporary),))
            _evict_oldest(self._path.parent)
        except (OutputError, OSError, UnicodeError, sqlite3.Error) as error:  # UnicodeError: of the cache's own name
            log.debug("index of headers not kept: %s", error)

    def _row(self, name: bytes) -> tuple[bytes, str, bytes] | None:
        try:
            return self._stored.execute(_SELECT, (name,)).fetchone() if self._stored else None
        except sqlite3.Error:  # a damaged page
            return None

    def _name(self, path: Path) -> bytes:
        return os.fsencode(path.relative_to(self._root))  # file names need not be valid text


def _index_file(folder: Path) -> Path | None:
    chosen = os.environ.get("MED_TRANSFER_CACHE", "")
    if chosen == "off":
        return None
    try:
        base = Path(chosen or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # the account has no home folder
        return None
    base = base if chosen else base / "med_transfer"
    return base / "headers" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]}.sqlite"


def _opened(path: Path | None) -> tuple[sqlite3.Connection | None, int]:
    """Open a stored index; also returns its number of files. It is immutable: a new one replaces it atomically."""
    try:
        if path is None or not path.is_file():
            return None, 0
        stored = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        if stored.execute("PRAGMA user_version").fetchone()[0] != _USER_VERSION:
            return None, 0
        return stored, stored.execute("SELECT count(*) FROM files").fetchone()[0]
    except (OSError, sqlite3.Error):  # not permitted, truncated or damaged: the headers are read instead
        return None, 0


def _stamp_text(stamp: Stamp) -> str:
    return " ".join(map(str, stamp))


def _entry(content: FileContent) -> _Entry:
    if isinstance(content, str):
        return _Entry(no_scan=content)
    if isinstance(content, Series):
        affine = () if content.affine is None else tuple(float(number) for number in content.affine.ravel())
        return _Entry(volume=_VolumeFile(content.format, content.n_slices, content.verdict, affine))
    return _Entry(slices=tuple(replace(slice_, path=Path(), stamp=NO_STAMP) for slice_ in content))


def _series(path: Path, stored: _VolumeFile) -> Series:
    affine = np.array(stored.affine).reshape(4, 4) if stored.affine else None
    return Series(path, (path,), stored.format, "", "", "", stored.n_slices, stored.verdict, affine=affine)


def _evict_oldest(folder: Path) -> None:
    for path in folder.glob("*.json"):  # written by earlier versions
        path.unlink(missing_ok=True)
    trees = sorted(folder.glob("*.sqlite"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in trees[_KEPT:]:
        path.unlink(missing_ok=True)
