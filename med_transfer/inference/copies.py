"""Detection of byte-for-byte copies of an earlier scan, so that each is computed once and reported every time."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from med_transfer.cohorts import Case, cache_key
from med_transfer.scans import Series
from med_transfer.scans.formats.nifti import SUFFIXES
from med_transfer.scans.stamps import NamedStamp, stamps

_WHOLE_SCANS = (*SUFFIXES, ".nrrd", ".mha")  # of files that hold one scan, and usually all of it
_SAMPLE = 1 << 14  # bytes read at the start, middle and end of a file; they nearly always tell two scans apart


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan's key and files; each hash is computed at most once."""

    key: str
    files: tuple[Path, ...]

    @cached_property
    def sample(self) -> bytes:
        return _content(self.files, _SAMPLE)

    @cached_property
    def whole(self) -> bytes:
        return self.stamps_and_whole[1]

    @cached_property
    def stamps_and_whole(self) -> tuple[list[NamedStamp], bytes]:
        """Stamps of the files, taken before they were hashed, and the hash."""
        return stamps(self.files), _content(self.files)


class Copies:
    """The scans seen so far, indexed by headers or file sizes; contents are read only where those agree."""

    def __init__(self) -> None:
        self._first: dict[Hashable, _Scan] = {}
        self._alike: dict[tuple[Hashable, bytes], list[_Scan]] = defaultdict(list)  # for shared hints only
        self._originals: dict[str, _Scan] = {}  # by key

    def original(self, case: Case, series: Series | None, key: str) -> str:
        """Return the key of the earlier scan that this one is a copy of, or its own key if there is none."""
        files = _files(case, series)
        try:
            return self._original(_hint(case, series, files), _Scan(key, files)) if files else key
        except OSError:  # reported when the scan itself is read
            return key

    def unchanged(self, original: str) -> bool:
        """Whether the files of an original, given by its key, are still those that a copy was compared with."""
        scan = self._originals[original]
        return stamps(scan.files) == scan.stamps_and_whole[0]

    def _original(self, hint: Hashable, scan: _Scan) -> str:
        first = self._first.setdefault(hint, scan)
        if first is scan:
            return scan.key
        of_first, alike = self._alike[hint, first.sample], self._alike[hint, scan.sample]
        if first not in of_first:
            of_first.append(first)
        for earlier in alike:
            if earlier.whole == scan.whole:
                self._originals[earlier.key] = earlier
                return earlier.key
        alike.append(scan)
        return scan.key


def _files(case: Case, series: Series | None) -> tuple[Path, ...]:
    """The files that make up the scan; empty if they are not known before it is read."""
    if series is not None:
        return series.files if series.archive_stamp is None else ()
    named_as_one = case.path.name.lower().endswith(_WHOLE_SCANS)  # an archive may hold several scans
    return (case.path,) if named_as_one and os.path.isfile(case.path) else ()  # noqa: PTH113  Path.is_file() raises


def _hint(case: Case, series: Series | None, files: Sequence[Path]) -> Hashable:
    """Everything else that the prediction depends on, names excepted, and what is known of the files unopened."""
    there = replace(case, path=Path(), scan="", patient="", label=None, row=0)
    facts = (str(series.verdict), series.part, series.format) if series else ()
    known = tuple(image.sop_uid for image in series.slices) if series and series.slices else _size(files)
    return cache_key(repr(there), facts), len(files), known


def _size(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _content(files: Sequence[Path], sample: int = 0) -> bytes:
    """SHA-256 of the files, or of ``sample`` bytes at the start, middle and end of each."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb", opener=_without_waiting) as file:
            if not sample:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            size = path.stat().st_size
            for place in (0, size // 2, max(0, size - sample)):
                file.seek(place)
                digest.update(file.read(sample))
    return digest.digest()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that has taken its place meanwhile is empty, and would else wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
