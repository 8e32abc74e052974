"""Search a folder tree for series by content, and judge each."""

from __future__ import annotations

import functools
import logging
import stat
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from med_transfer.errors import NotAScan, ScanAborted, ScanError, UnreadableScan, given_path
from med_transfer.errors.given_numbers import number_from
from med_transfer.errors.sentence import Sentence, few
from med_transfer.progress import Progress, silent
from med_transfer.scans.dicom.directory import NAME as DICOMDIR
from med_transfer.scans.dicom.directory import listed_images
from med_transfer.scans.dicom.elements import NO_STAMP, Stamp, stamp_of
from med_transfer.scans.dicom.header import Slice, looks_like_dicom, read_slices
from med_transfer.scans.dicom.series import all_series
from med_transfer.scans.dicom.shared_values import SharedValues
from med_transfer.scans.formats.itk import FORMATS, itk_series
from med_transfer.scans.formats.nifti import SUFFIXES, nifti_series
from med_transfer.scans.isolation import confined, isolated, isolated_map
from med_transfer.scans.library_noise import silence_readers
from med_transfer.scans.search.archives import MAX_NESTED, Taken, is_archive, unpacked
from med_transfer.scans.search.damaged_files import as_damaged, beside_damage, named_as_dicom, named_as_volume
from med_transfer.scans.search.files import NOT_REGULAR, require_exists
from med_transfer.scans.search.header_index import FileContent, HeaderIndex
from med_transfer.scans.search.links import BROKEN, follow_links_advice, visible_files
from med_transfer.scans.series import NO_IMAGE, TEXT_NAMED_AS_DICOM, Ignored, Series, Survey
from med_transfer.scans.verdict import Verdict

log = logging.getLogger(__name__)

_READERS = 8  # threads
_BATCH = 1024  # files; headers take ten times the memory until equal values are shared
_FILES_PER_REPORT = 64  # files per progress report; drawing a bar takes a tenth of the time to read a header
_TRIAL_FILES = 16  # files read to measure the storage's speed
_WAITING_RATIO = 3.0  # ratio of elapsed to CPU time
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "Zstandard"}
_TEXT = {*b"\t\n\f\r", *range(0x20, 0x7F), *range(0x80, 0x100)}  # bytes of ASCII, UTF-8 and Latin-1


def survey(folder: Path | str, *, max_gap_mm: float = 0.0, progress: Progress = silent) -> Survey:
    """Find every series in a folder tree, archive or file, and every other file.

    Only headers are read, and those of files unchanged since the last survey come from a cache. A bad file never stops
    the search; it is listed as ignored, and appears in the verdict of a DICOM series beside it, which may have lost it.

    Args:
        folder: a folder tree, an archive (zip, tar) or a file.
        max_gap_mm: unevenly spaced slices are repaired by interpolation if no gap is wider; 0 rejects them.
        progress: called with the number of files and archives examined.

    Raises:
        ScanNotFound: the folder does not exist.
        NotAScan: it is a pipe, socket or device.
        UsageError: it is no path, or the gap is no number of mm.
    """
    folder = given_path(folder, "folder", "a folder of scans, or a scan")
    number_from(max_gap_mm, "max_gap_mm", 0)
    require_exists(folder)
    silence_readers()
    return _of_file(folder, max_gap_mm) if folder.is_file() else _of_tree(folder, max_gap_mm, _in_archive, progress)


def _of_tree(
    folder: Path, max_gap_mm: float, in_archive: Callable[[Path, float], Survey], progress: Progress = silent
) -> Survey:
    found = _Found()
    for number, (path, content) in enumerate(_contents(folder, found.ignored)):
        found.add(path, content)
        if number % _FILES_PER_REPORT == 0:
            progress("looking through files", number + 1, 0)
    dicom = _all_series(found.slices, max_gap_mm, _listed(found.directories), found.ignored)
    damaged = as_damaged(found.ignored, dicom)
    series = beside_damage(dicom, damaged) + found.volumes
    archives = {}
    for number, path in enumerate(found.archives):
        progress("unpacking archives", number, len(found.archives), path.name)
        archives[path] = in_archive(path, max_gap_mm)
    series = _reject_divided({folder: series, **{path: list(archive.series) for path, archive in archives.items()}})
    ignored = damaged + [file for archive in archives.values() for file in archive.ignored]
    if series and (how := follow_links_advice(ignored)):  # without series, the error says it
        _tell_of_links(folder, how)
    return Survey(tuple(sorted(series, key=_sort_key)), tuple(sorted(ignored, key=lambda file: file.path)))


@functools.cache
def _tell_of_links(folder: Path, how: str) -> None:
    """Warn once per process, because a watched folder is searched repeatedly."""
    log.warning("%s: links to folders elsewhere are left out. %s", folder, how)


def find_series(folder: Path | str, *, max_gap_mm: float = 0.0) -> list[Series]:
    """Find every series in a folder tree, usable or not; arguments and errors as for :func:`survey`."""
    return list(survey(folder, max_gap_mm=max_gap_mm).series)


def inspect_file(path: Path) -> tuple[Slice, ...] | Series | None:
    """Content of one file: DICOM images, a single-file series, or None for an archive.

    Raises:
        NotAScan: none of these.
        UnreadableScan: damaged or not permitted.
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
            raise UnreadableScan(_content_found(start), where=path)
        raise NotAScan(NO_IMAGE, where=path, expected="DICOM, NIfTI, NRRD or MetaImage")
    return tuple(read_slices(path))


def _content_found(start: bytes) -> Sentence:
    method = next((method for magic, method in _PACKED.items() if start.startswith(magic)), None)
    if method is None and any(start) and _TEXT.issuperset(start):
        return TEXT_NAMED_AS_DICOM
    what = Sentence("it does not begin as DICOM does") if any(start) else Sentence("it holds zeros")
    if method is not None:
        what = Sentence("packed with {method}; unpack it", method=method)
    return Sentence("named as DICOM, but {what}", what=what if start else Sentence("empty"))


def first_bytes(path: Path) -> bytes:
    """The first 132 bytes, which identify DICOM and archives. Raises UnreadableScan."""
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise UnreadableScan(Sentence("cannot be opened ({error})", error=type(error).__name__), where=path) from error


def _of_file(path: Path, max_gap_mm: float) -> Survey:
    """The survey of one file or archive. Raises UnreadableScan for one that cannot be opened."""
    first_bytes(path)
    (content,) = isolated_map(read_files, [path])
    if isinstance(content, ScanAborted):
        content = _as_ignored(path, content)
    if content is None:
        return _in_archive(path, max_gap_mm)
    if isinstance(content, str):
        content = Ignored(path, content)
    if isinstance(content, Ignored):
        return Survey((), (content,))
    ignored: list[Ignored] = []
    series = [content] if isinstance(content, Series) else _all_series(list(content), max_gap_mm, {}, ignored)
    return Survey(tuple(sorted(series, key=_sort_key)), tuple(ignored))


def _sort_key(series: Series) -> tuple[str, str, tuple[Path, ...]]:
    return str(series.path), series.name, series.files


# The files of a tree ------------------------------------------------------------------------------------------


class _Found:
    """Collects the content of the files of a tree."""

    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self.volumes: list[Series] = []
        self.archives: list[Path] = []
        self.directories: list[Path] = []
        self.ignored: list[Ignored] = []
        self._shared = SharedValues()

    def add(self, path: Path, content: FileContent | None) -> None:
        if path.name.upper() == DICOMDIR:
            self.directories.append(path)
        if isinstance(content, str):
            self.ignored.append(Ignored(path, content))
        elif isinstance(content, Series):
            self.volumes.append(content)
        elif content is None:
            self.archives.append(path)
        else:
            self.slices += self._shared.of(content)


def _contents(folder: Path, ignored: list[Ignored]) -> Iterator[tuple[Path, FileContent | None]]:
    """Yield each file with its content, None for an archive; damaged files are appended to ``ignored``."""

    index = HeaderIndex(folder)
    unread: list[tuple[Path, Stamp]] = []
    for path in _files(folder, ignored):
        stamp = _stamp(path)  # before reading, so that a file that changes meanwhile counts as changed
        if stamp is None:
            ignored.append(Ignored(path, NOT_REGULAR, damaged=named_as_volume(path) or named_as_dicom(path)))
            continue
        stored = index.get(path, stamp)
        if stored is not None:
            yield path, stored
            continue
        unread.append((path, stamp))
        if len(unread) == _BATCH:
            yield from _read(unread, index, ignored)
            unread = []
    yield from _read(unread, index, ignored)
    index.save()


def _read(
    files: list[tuple[Path, Stamp]], index: HeaderIndex, ignored: list[Ignored]
) -> Iterator[tuple[Path, FileContent | None]]:
    contents = isolated_map(read_files, [path for path, _ in files])
    for (path, stamp), content in zip(files, contents, strict=True):
        if isinstance(content, ScanAborted | Ignored):
            ignored.append(_as_ignored(path, content))
            continue
        if content is not None:
            index.put(path, stamp, content)
        yield path, content


def _as_ignored(path: Path, content: ScanAborted | Ignored) -> Ignored:
    return content if isinstance(content, Ignored) else Ignored(path, content.found, damaged=True)


def read_files(paths: Sequence[Path]) -> Iterator[FileContent | Ignored | None]:
    """Yield the content of each file, in order; read in threads if the storage is slow (a network drive)."""
    silence_readers()
    started, worked = time.perf_counter(), time.thread_time()
    yield from map(_read_file, paths[:_TRIAL_FILES])
    waited = (time.perf_counter() - started) > _WAITING_RATIO * (time.thread_time() - worked)
    if not waited:
        yield from map(_read_file, paths[_TRIAL_FILES:])
        return
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(_read_file, paths[_TRIAL_FILES:])


def _read_file(path: Path) -> FileContent | Ignored | None:
    try:
        return inspect_file(path)
    except NotAScan as error:
        return Ignored(path, error.found, damaged=True) if named_as_volume(path) else error.found
    except ScanError as error:
        return Ignored(path, error.found, damaged=True)
    except MemoryError:
        raise
    except Exception as error:  # corrupt bytes make a parser raise nearly anything
        return Ignored(path, Sentence("cannot be read ({error})", error=type(error).__name__), damaged=True)


def _stamp(path: Path) -> Stamp | None:
    """Stamp of a file; None if it is not a regular file and must not be opened."""
    try:
        status = path.stat()
    except OSError:  # a broken link, which reading will report
        return NO_STAMP
    return stamp_of(status) if stat.S_ISREG(status.st_mode) else None


def _files(folder: Path, ignored: list[Ignored]) -> Iterator[Path]:
    def left_out(link: Path, reason: str) -> None:
        is_lost = reason == BROKEN and (named_as_dicom(link) or named_as_volume(link))
        ignored.append(Ignored(link, reason, damaged=is_lost))

    def unreadable(parent: Path, error: OSError) -> None:
        ignored.append(
            Ignored(parent, Sentence("folder cannot be opened ({error})", error=type(error).__name__), damaged=True)
        )

    return visible_files(folder, left_out, unreadable)


def _listed(directories: list[Path]) -> Mapping[str, frozenset[str]]:
    try:
        return isolated(listed_images, directories) if directories else {}
    except ScanError:  # a DICOMDIR is optional
        return {}


def _all_series(
    slices: list[Slice], max_gap_mm: float, listed: Mapping[str, frozenset[str]], ignored: list[Ignored]
) -> list[Series]:
    """Like :func:`all_series`, but headers on which it fails lose only their own series."""
    try:
        return all_series(slices, max_gap_mm, listed)
    except Exception:  # corrupt headers of one series; the loop below finds it
        log.debug("headers that cannot be put together", exc_info=True)
    by_series: dict[str, list[Slice]] = defaultdict(list)
    for slice_ in slices:
        by_series[slice_.series_uid].append(slice_)
    series: list[Series] = []
    for group in by_series.values():
        try:
            with confined(group[0].path):
                series += all_series(group, max_gap_mm, listed)
        except ScanAborted as error:
            ignored += [Ignored(path, error.found, damaged=True) for path in dict.fromkeys(s.path for s in group)]
    return series


# Archives and damage ------------------------------------------------------------------------------------------


def _in_archive(archive: Path, max_gap_mm: float, taken: Taken | None = None, nested: int = 0) -> Survey:
    """Survey an archive; its series get the archive's path. One that cannot be unpacked is a damaged file.

    Args:
        archive: zip or tar.
        max_gap_mm: as for :func:`survey`.
        taken: files and bytes unpacked before from the enclosing archive.
        nested: number of archives that enclose it.
    """
    if nested >= MAX_NESTED:
        return Survey((), (Ignored(archive, Sentence("archive within {n} others", n=nested), damaged=True),))
    taken = taken or Taken()
    try:
        with confined(archive):
            stamp = stamp_of(archive.stat())  # before unpacking, so that a change meanwhile shows
            folder = unpacked(archive, taken=taken)
    except (UnreadableScan, ScanAborted) as error:
        return Survey((), (Ignored(archive, error.found, damaged=True),))
    inner = _of_tree(folder, max_gap_mm, partial(_in_archive, taken=taken, nested=nested + 1))
    series = tuple(replace(one, path=archive, archive_stamp=stamp) for one in _each_named(inner.series, folder))
    ignored = tuple(replace(file, path=archive / file.path.relative_to(folder)) for file in inner.ignored)
    return Survey(series, ignored)


def _each_named(series: Sequence[Series], folder: Path) -> list[Series]:
    """Give series of an archive that share a name, or have no UID, the name of their place in it.

    A table names the archive and the series; without their places, copies would be one scan.
    """
    names = Counter(_shared_name(one) for one in series if one.verdict.usable or not one.series_uid)

    def place(one: Series) -> str:
        return (one.path.relative_to(folder) / one.part).as_posix()

    return [replace(one, part=place(one)) if names[_shared_name(one)] > 1 else one for one in series]


def _shared_name(series: Series) -> str:
    return series.name if series.series_uid else ""


def _reject_divided(places: Mapping[Path, Sequence[Series]]) -> list[Series]:
    """The series of a tree and of the archives in it; one with further images in another of them is rejected."""
    if len(places) == 1:
        return [one for found in places.values() for one in found]
    positions: dict[Hashable, dict[Path, set[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(set))
    for place, found in places.items():
        for one in found:
            positions[_owner(one)][place] |= {slice_.position_mm for slice_ in one.slices if not slice_.is_localizer}
    return [_checked_whole(one, place, positions[_owner(one)]) for place, found in places.items() for one in found]


def _owner(series: Series) -> Hashable:
    return series.series_uid, series.study_uid, series.slices[0].patient_mark if series.slices else ""


def _checked_whole(series: Series, place: Path, positions: Mapping[Path, set[tuple[float, ...]]]) -> Series:
    more = [other.name for other, there in positions.items() if series.series_uid and not there <= positions[place]]
    if not more:
        return series
    found = Sentence("part of a series: {names} has other images of it; unpack them into one folder", names=few(more))
    return series.among(Verdict(rejections=(found,)))
