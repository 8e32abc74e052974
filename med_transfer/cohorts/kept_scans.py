"""Keep inspected scans in memory until they are prepared, so that none is read or searched for organs twice.

::

    with keeping_scans():
        plan = plan_cohort(cohort)     # reads some scans
        run = finetune(cohort, ...)    # reads the others
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from med_transfer.scans import Series, Volume, read_scan
from med_transfer.scans.isolation import isolated
from med_transfer.scans.stamps import NamedStamp, stamps

MAX_BYTES = 2**30  # of voxels: 250 heads, or seven large chests; further scans are read again

_Key = tuple[Path, str, tuple[NamedStamp, ...]]
_kept: ContextVar[dict[_Key, Volume] | None] = ContextVar("kept", default=None)


@contextmanager
def keeping_scans() -> Iterator[None]:
    """Within this context :func:`read_and_keep` keeps scans for :func:`take_or_read`; nested contexts share them."""
    if _kept.get() is not None:
        yield
        return
    before = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(before)


def read_and_keep(path: Path, series_uid: str) -> Volume:
    """Read a scan, and keep it if there is room. Raises ScanError."""
    kept = _kept.get()
    key = _key(path, series_uid) if kept is not None else None
    if kept and key in kept:
        return kept[key]
    volume = isolated(read_scan, path, series_uid, where=path)
    if kept is not None and key and volume.voxels.nbytes + sum(v.voxels.nbytes for v in kept.values()) <= MAX_BYTES:
        kept[key] = volume
    return volume


def take_or_read(source: Path | Series, series_uid: str, max_gap_mm: float, where: Path) -> Volume:
    """Return the kept scan, removing it from memory, or read it now. Raises ScanError.

    A kept scan is valid for every ``max_gap_mm``, because :func:`read_and_keep` refuses uneven gaps.
    """
    kept = _kept.get()
    if kept and isinstance(source, Path) and (volume := kept.pop(_key(source, series_uid), None)):
        return volume
    return isolated(read_scan, source, series_uid, max_gap_mm=max_gap_mm, where=where)


def _key(path: Path, series_uid: str) -> _Key:
    """Key that changes with the files."""
    return path, series_uid, tuple(stamps([path]))
