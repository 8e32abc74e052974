"""File stamps, which show without reading a scan again whether its files have changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from med_transfer.errors import ScanError
from med_transfer.scans.dicom.elements import Stamp, stamp_of
from med_transfer.scans.formats.itk import stored_data
from med_transfer.scans.search.links import visible_files
from med_transfer.scans.series import Series

NamedStamp = tuple[str, *Stamp]

_DETACHED = (".mhd", ".nhdr")  # headers whose voxels are in another file


def stamps(paths: Iterable[Path]) -> list[NamedStamp]:
    """Name, size, mtime, ctime and inode of every file at these paths, in a stable order.

    A copy that preserves size and mtime (``rsync -t``) differs in inode or ctime. A folder stands for all files below
    it that a search for scans looks at; a detached header also for its data files. Missing files have no stamp.
    """
    return [stamp for path in paths for file in _files(path) if (stamp := _stamp(file, path))]


def stamps_when_found(series: Series) -> list[NamedStamp]:
    """Stamps of a series' files as they were when it was found, so that a change before it is read shows.

    A volume file is stamped now, since reading it begins with its header again.
    """
    if series.archive_stamp is not None:
        return [(series.path.name, *series.archive_stamp)]
    if series.slices:
        return [(path.name, *stamp) for path, stamp in {one.path: one.stamp for one in series.slices}.items()]
    return stamps(series.files)


def _files(path: Path) -> Iterator[Path]:
    if path.suffix.lower() in _DETACHED and os.path.isfile(path):  # noqa: PTH113  Path.is_file() raises
        yield from (path, *_data_files(path))
    elif os.path.isdir(path):  # noqa: PTH112  so does Path.is_dir()
        yield from visible_files(path)
    else:
        yield path


def _stamp(file: Path, base: Path) -> NamedStamp | None:
    try:
        stat = file.stat()
    except (OSError, ValueError):  # ValueError: a name with a null byte
        return None
    name = file.relative_to(base).as_posix() if file != base and file.is_relative_to(base) else file.name
    return name, *stamp_of(stat)


def _data_files(header: Path) -> list[Path]:
    """The data files that a header names; if they are missing, all files beside it, so that a later one is noticed."""
    try:
        return list(stored_data(header).files)
    except (OSError, ScanError):
        with suppress(OSError):
            return sorted(file for file in header.parent.iterdir() if file.is_file())
        return []
