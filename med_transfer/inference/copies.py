"""Scans that are the same, byte for byte, as one before them: computed once, reported for each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from med_transfer.cohorts import Case, cache_key
from med_transfer.scans import Series

_SAMPLE = 1 << 14  # bytes at the start, the middle and the end, which nearly always tell two scans apart


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan's key and files, each of which is read once at most."""

    key: str
    files: tuple[Path, ...]

    @cached_property
    def sample(self) -> bytes:
        return _content(self.files, _SAMPLE)

    @cached_property
    def whole(self) -> bytes:
        return _content(self.files)


class Copies:
    """Scans that were seen so far, by what their headers or sizes say; files are read only where that is the same."""

    def __init__(self) -> None:
        self._first: dict[Hashable, _Scan] = {}
        self._alike: dict[tuple[Hashable, bytes], list[_Scan]] = defaultdict(list)  # where a hint is that of several

    def original(self, case: Case, series: Series | None, key: str) -> str:
        """The key of the scan before it that it is a copy of; its own one where there is none."""
        files = _files(case, series)
        try:
            return self._original(_hint(case, series, files), _Scan(key, files)) if files else key
        except OSError:  # reading it will say so
            return key

    def _original(self, hint: Hashable, scan: _Scan) -> str:
        first = self._first.setdefault(hint, scan)
        if first is scan:
            return scan.key
        of_first, alike = self._alike[hint, first.sample], self._alike[hint, scan.sample]
        if first not in of_first:
            of_first.append(first)
        for earlier in alike:
            if earlier.whole == scan.whole:
                return earlier.key
        alike.append(scan)
        return scan.key


def _files(case: Case, series: Series | None) -> tuple[Path, ...]:
    """Those that hold all of it; none where they are not known before it is read."""
    if series is not None:
        return series.files if series.on_disk == series.files else ()
    return (case.path,) if case.path.suffix in (".gz", ".nii", ".nrrd", ".mha") and case.path.is_file() else ()


def _hint(case: Case, series: Series | None, files: Sequence[Path]) -> Hashable:
    """What else its answer depends on, but for the name; and what is known of its files without reading them."""
    there = replace(case, path=Path(), scan="", patient="", label=None, series_uid="", row=0)
    said = (str(series.verdict), series.part, series.format) if series else ()
    known = tuple(image.sop_uid for image in series.slices) if series and series.slices else _size(files)
    return cache_key(repr(there), said), len(files), known


def _size(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _content(files: Sequence[Path], sample: int = 0) -> bytes:
    """Hash of the files, or of a little of each."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            if not sample:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            size = path.stat().st_size
            for place in (0, size // 2, max(0, size - sample)):
                file.seek(place)
                digest.update(file.read(sample))
    return digest.digest()
