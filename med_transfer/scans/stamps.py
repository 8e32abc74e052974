"""What tells, without reading them, whether the files of a scan are still those that were read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from med_transfer.errors import ScanError
from med_transfer.scans.dicom.elements import Stamp, stamp_of
from med_transfer.scans.formats.itk import stored_data
from med_transfer.scans.search.links import files_to_look_at

NamedStamp = tuple[str, *Stamp]

_DETACHED = (".mhd", ".nhdr")  # a header whose voxels lie in another file


def stamps(paths: Iterable[Path]) -> list[NamedStamp]:
    """Name, size, both times of change and inode of every file at these paths, in a stable order.

    A copy that keeps size and time (``rsync -t``) is told by its inode or by when that was changed. Of a folder, the
    files below it count that are looked at for scans; of a header without voxels, the files that have them, too. What
    is not there has no stamp.
    """
    return [stamp for path in paths for file in _files(path) if (stamp := _stamp(file, path))]


def _files(path: Path) -> Iterator[Path]:
    if path.suffix.lower() in _DETACHED and path.is_file():
        yield from (path, *_data_files(path))
    elif path.is_dir():
        yield from files_to_look_at(path)
    else:
        yield path


def _stamp(file: Path, base: Path) -> NamedStamp | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    name = file.relative_to(base).as_posix() if file != base and file.is_relative_to(base) else file.name
    return name, *stamp_of(stat)


def _data_files(header: Path) -> list[Path]:
    """Those that a header names; where they cannot be found, whatever lies beside it, as one may come to be there."""
    try:
        return list(stored_data(header).files)
    except (OSError, ScanError):
        with suppress(OSError):
            return sorted(file for file in header.parent.iterdir() if file.is_file())
        return []
