"""Looks through a folder tree, by content, and says which series it holds and what each is worth."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from med_transfer.errors import NotAScan, ScanError, ScanNotFound, UnreadableScan
from med_transfer.scans.dicom.directory import NAME as DICOMDIR
from med_transfer.scans.dicom.directory import listed_images
from med_transfer.scans.dicom.header import Slice, looks_like_dicom, read_slices
from med_transfer.scans.dicom.series import all_series
from med_transfer.scans.formats.itk import FORMATS, itk_series
from med_transfer.scans.formats.nifti import SUFFIXES, nifti_series
from med_transfer.scans.library_noise import silence_readers
from med_transfer.scans.search.archives import is_archive, unpacked
from med_transfer.scans.search.damaged_files import as_damaged, beside_damage, named_as_dicom
from med_transfer.scans.search.header_index import FileContent, HeaderIndex
from med_transfer.scans.series import Ignored, Series, Survey

_READERS = 8  # threads
_TRIED = 16  # files that show how fast the storage is
_MOSTLY_WAITING = 3.0  # elapsed over computing time


def survey(folder: Path | str, *, max_gap_mm: float = 0.0) -> Survey:
    """Every series in a folder and below it (or of one file or archive), and every file that is none.

    Reads headers only, and none again of files that have not changed since the last survey. One bad file never stops
    the search; it is listed as ignored, and is in the verdict of the DICOM series beside it, which may have lost it.

    Args:
        folder: a folder tree, an archive (zip, tar) or a file.
        max_gap_mm: uneven slices are repaired by interpolation where no gap is wider; 0 rejects them.

    Raises:
        ScanNotFound: the folder does not exist.
    """
    folder = Path(folder)
    require_exists(folder)
    silence_readers()
    if folder.is_file():
        return _of_file(folder, max_gap_mm)
    ignored: list[Ignored] = []
    contents = dict(_contents(folder, ignored))
    archives = [_in_archive(path, max_gap_mm) for path in contents if contents[path] is None]
    slices = [slice_ for content in contents.values() if isinstance(content, tuple) for slice_ in content]
    ignored += [Ignored(path, content) for path, content in contents.items() if isinstance(content, str)]
    listed = listed_images(path for path in contents if path.name.upper() == DICOMDIR)
    series = all_series(slices, max_gap_mm, listed)
    ignored = as_damaged(ignored, series)
    series = beside_damage(series, ignored)
    series += [content for content in contents.values() if isinstance(content, Series)]
    series += [within for archive in archives for within in archive.series]
    ignored += [file for archive in archives for file in archive.ignored]
    return Survey(tuple(sorted(series, key=_order)), tuple(sorted(ignored, key=lambda file: file.path)))


def find_series(folder: Path | str, *, max_gap_mm: float = 0.0) -> list[Series]:
    """Every series in a folder and below it, usable or not; arguments and errors as :func:`survey`."""
    return list(survey(folder, max_gap_mm=max_gap_mm).series)


def inspect_file(path: Path) -> tuple[Slice, ...] | Series | None:
    """What one file is: DICOM images, a series in a file of its own, or None for an archive.

    Raises:
        NotAScan: neither.
        UnreadableScan: one of them, but damaged, or not permitted.
    """
    name = path.name.lower()
    if name.endswith(SUFFIXES):
        return nifti_series(path)
    if path.suffix.lower() in FORMATS:
        return itk_series(path)
    start = first_bytes(path)
    if is_archive(path, start):
        return None
    if not looks_like_dicom(start):
        if named_as_dicom(path):
            raise UnreadableScan(f"named as DICOM, but {_instead(start)}", where=path)
        raise NotAScan("not an image file", where=path, expected="DICOM, NIfTI, NRRD or MetaImage")
    return tuple(read_slices(path))


def _instead(start: bytes) -> str:
    if not start:
        return "empty"
    return "it holds zeros" if not any(start) else "it does not begin as DICOM does"


def require_exists(path: Path) -> None:
    """Raises ScanNotFound, or UnreadableScan where permissions hide the answer."""
    try:
        exists = path.exists()
    except PermissionError as error:
        raise UnreadableScan("no permission to look into the folder", where=path) from error
    if not exists:
        raise ScanNotFound("no such file or folder", where=path)


def first_bytes(path: Path) -> bytes:
    """What tells DICOM and archives. Raises UnreadableScan."""
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise UnreadableScan(f"cannot be opened ({type(error).__name__})", where=path) from error


def _of_file(path: Path, max_gap_mm: float) -> Survey:
    """The survey of one file or archive. Raises UnreadableScan for one that cannot be opened."""
    first_bytes(path)
    content = _read_file(path)
    if content is None:
        return _in_archive(path, max_gap_mm)
    if isinstance(content, str):
        content = Ignored(path, content)
    if isinstance(content, Ignored):
        return Survey((), (content,))
    series = [content] if isinstance(content, Series) else all_series(content, max_gap_mm)
    return Survey(tuple(sorted(series, key=_order)), ())


def _order(series: Series) -> tuple[str, str, tuple[Path, ...]]:
    return str(series.path), series.name, series.files


# The files of a tree ------------------------------------------------------------------------------------------


def _contents(folder: Path, ignored: list[Ignored]) -> Iterator[tuple[Path, FileContent | None]]:
    """Each file with what it is; None for an archive. Damaged files go to ``ignored``."""
    index = HeaderIndex(folder)
    unread: dict[Path, tuple[int, int]] = {}
    for path in _files(folder, ignored):
        stamp = _stamp(path)  # before reading: a file that changes meanwhile will count as changed
        stored = index.get(path, stamp)
        if stored is None:
            unread[path] = stamp
        else:
            yield path, stored
    for path, content in zip(unread, _read_all(list(unread)), strict=True):
        if isinstance(content, Ignored):
            ignored.append(content)
            continue
        if content is not None:
            index.put(path, unread[path], content)
        yield path, content
    index.save()


def _read_all(paths: list[Path]) -> list[FileContent | Ignored | None]:
    """In threads where the files come slowly (a network drive); from memory, one after the other is quicker."""
    started, worked = time.perf_counter(), time.thread_time()
    first = [_read_file(path) for path in paths[:_TRIED]]
    waited = (time.perf_counter() - started) > _MOSTLY_WAITING * (time.thread_time() - worked)
    if not waited:
        return first + [_read_file(path) for path in paths[_TRIED:]]
    with ThreadPoolExecutor(_READERS) as pool:
        return first + list(pool.map(_read_file, paths[_TRIED:]))


def _read_file(path: Path) -> FileContent | Ignored | None:
    try:
        return inspect_file(path)
    except NotAScan as error:
        return error.found
    except ScanError as error:
        return Ignored(path, error.found, damaged=True)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # a broken link: reading it will say so
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _files(folder: Path, ignored: list[Ignored]) -> Iterator[Path]:
    """Files below a folder, in order of name, links followed once; hidden ones left out."""

    def unreadable(error: OSError) -> None:
        ignored.append(Ignored(Path(error.filename), f"folder cannot be opened ({type(error).__name__})", damaged=True))

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)


# Archives and damage ------------------------------------------------------------------------------------------


def _in_archive(archive: Path, max_gap_mm: float) -> Survey:
    """The series of an archive, under the archive's path; one that cannot be unpacked is a damaged file."""
    try:
        folder = unpacked(archive)
    except UnreadableScan as error:
        return Survey((), (Ignored(archive, error.found, damaged=True),))
    inner = survey(folder, max_gap_mm=max_gap_mm)
    series = tuple(replace(extracted, path=archive) for extracted in inner.series)
    ignored = tuple(replace(file, path=archive / file.path.relative_to(folder)) for file in inner.ignored)
    return Survey(series, ignored)
