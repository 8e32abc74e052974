"""What tells, without reading them, whether the files of a scan are still those that were read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from med_transfer.scans.dicom.elements import Stamp, stamp_of
from med_transfer.scans.search.files import files_below

NamedStamp = tuple[str, *Stamp]

_DETACHED = (".mhd", ".nhdr")  # a header whose voxels lie in another file
_DATA_FIELDS = ("elementdatafile", "data file", "datafile")
_LONGEST_HEADER = 1 << 16


def stamps(paths: Iterable[Path]) -> list[NamedStamp]:
    """Name, size, both times of change and inode of every file at these paths, in a stable order.

    A copy that keeps size and time (``rsync -t``) is told by its inode or by when that was changed. Of a folder, all
    files below it count; of a header without voxels, the files that have them, too. What is not there has no stamp.
    """
    return [stamp for path in paths for file in _files(path) if (stamp := _stamp(file, path))]


def _files(path: Path) -> Iterator[Path]:
    if path.suffix.lower() in _DETACHED and path.is_file():
        yield from (path, *_data_files(path))
    elif path.is_dir():
        yield from files_below(path)
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
    """The one file that a header names; of a list or a pattern of them, whatever lies beside it."""
    try:
        with header.open("rb") as file:
            lines = file.read(_LONGEST_HEADER).decode("latin-1").splitlines()
        named = [line for line in lines if line.lower().lstrip().startswith(_DATA_FIELDS)]
        place = header.parent / named[-1].replace("=", ":", 1).partition(":")[2].strip() if named else header
        return [place] if place.is_file() else sorted(file for file in header.parent.iterdir() if file.is_file())
    except (OSError, ValueError):
        return []
