"""Unpack zip and tar archives, such as exports of a PACS, into folders private to this user.

Archives are untrusted: they may contain paths that lead outside, links, or far more bytes than their own size. Names,
number and size of members are therefore checked before and while they are written.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from med_transfer.errors import UnreadableScan
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.elements import Stamp, stamp_of
from med_transfer.scans.isolation import isolated
from med_transfer.scans.isolation.scan_worker import temporary_folder

_ZIP_MAGIC = b"PK\x03\x04"
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_CHUNK = 1 << 20
_SLOWEST = 10_000_000  # bytes of an archive per second
MAX_NESTED = 8  # archives within archives


@dataclass(frozen=True)
class ArchiveLimits:
    """Limits beyond which an archive is refused: number of files, bytes of one file, bytes of all."""

    files: int = 200_000
    file_bytes: int = 8 << 30
    bytes: int = 64 << 30


@dataclass
class Taken:
    """Files and bytes unpacked so far; the limits apply to an archive and those nested in it together."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    stream: IO[bytes]


def is_archive(path: Path, start: bytes) -> bool:
    """Whether a file is an archive: by its suffix, whatever its content, or without suffix by its first bytes.

    A failed download with such a suffix counts, and is reported as damaged. Content alone does not decide, because
    office documents are zip files, too.
    """
    return path.name.lower().endswith((".zip", *_TAR_SUFFIXES)) or (not path.suffix and start.startswith(_ZIP_MAGIC))


def unpacked(archive: Path, limits: ArchiveLimits = ArchiveLimits(), taken: Taken | None = None) -> Path:
    """Unpack an archive once per process; returns a folder readable by this user only, removed when the process ends.

    Args:
        archive: zip or tar.
        limits: for the archive and those nested in it together.
        taken: unpacked before from the enclosing archive; this archive's files and bytes are added to it.

    Raises:
        UnreadableScan: damaged, encrypted, beyond the limits, or with a member whose path leads outside.
        ScanAborted: it takes longer than the time limit of a scan plus a second per 10 MB, or too much memory.
    """
    stat = archive.stat()
    key = (archive.resolve(), stamp_of(stat))
    if key not in _UNPACKED:
        _remove_stale()
        folder, taken = temporary_folder(), taken or Taken()
        try:
            taken.files, taken.bytes = isolated(
                _unpack, archive, folder, limits, taken, where=archive, longer=stat.st_size // _SLOWEST
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _UNPACKED[key] = folder
    return _UNPACKED[key]


_UNPACKED: dict[tuple[Path, Stamp], Path] = {}


def _remove_stale() -> None:
    """Remove unpacked files of archives that have changed or vanished; a watched folder would fill the disk."""
    for archive, stamp in list(_UNPACKED):
        try:
            unchanged = stamp_of(archive.stat()) == stamp
        except OSError:
            unchanged = False
        if not unchanged and (folder := _UNPACKED.pop((archive, stamp), None)):
            shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path, limits: ArchiveLimits, taken: Taken) -> tuple[int, int]:
    """Unpack the members; returns the number of files and bytes, including those taken before."""
    number, total = taken.files, taken.bytes
    with _members(archive) as members:
        for member in members:
            number += 1
            room = min(limits.file_bytes, limits.bytes - total)
            if number > limits.files or member.size > room:
                raise _too_large(archive, limits)
            total += _write(member, _inside(folder, member.name, archive), room, archive, limits)
    if number == taken.files:  # a file of zeros, such as a failed download, is a tar without members
        raise UnreadableScan("archive without files", where=archive)
    return number, total


def _write(member: _Member, path: Path, room: int, archive: Path, limits: ArchiveLimits) -> int:
    """Write a member; returns its size in bytes, which its header need not state correctly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("wb") as file:
        while chunk := member.stream.read(_CHUNK):
            written += len(chunk)
            if written > room:
                raise _too_large(archive, limits)
            file.write(chunk)
    return written


def _inside(folder: Path, name: str, archive: Path) -> Path:
    """The path of a member in ``folder``; absolute names, drive letters and ``..`` are refused."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or ":" in name or "\0" in name:
        raise UnreadableScan(
            "archive with a member that leads out of it",
            where=archive,
            expected="relative paths",
            action="Unpack it yourself if you trust it",
        )
    return folder / pure


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """The regular files of an archive; folders, links and devices are skipped."""
    try:
        name = archive.name.lower()
        if name.endswith(".zip") or (zipfile.is_zipfile(archive) and not name.endswith(_TAR_SUFFIXES)):
            with zipfile.ZipFile(archive) as opened:
                yield _zip_members(opened)
        else:
            with tarfile.open(archive) as opened:
                yield _tar_members(opened)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, NotImplementedError) as error:
        raise UnreadableScan(Sentence("damaged archive ({kind})", kind=type(error).__name__), where=archive) from error
    except RuntimeError as error:  # raised by zipfile if a password is needed
        raise UnreadableScan("encrypted archive", where=archive, action="Unpack it with its password first") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableScan(Sentence("archive cannot be unpacked ({reason})", reason=reason), where=archive) from error


def _zip_members(opened: zipfile.ZipFile) -> Iterator[_Member]:
    """The files of a zip; those with the same name, which zip allows, get distinct names."""
    named: Counter[str] = Counter()
    for info in opened.infolist():
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if not info.is_dir() and not is_link:
            with opened.open(info) as stream:
                yield _Member(_unique_name(info.filename, named[info.filename]), info.file_size, stream)
            named[info.filename] += 1


def _unique_name(name: str, before: int) -> str:
    """Prefix a file name with the number of earlier files of that name; the suffix, which tells the format, stays."""
    folder, slash, own = name.rpartition("/")
    return f"{folder}{slash}{before}~{own}" if before else name


def _tar_members(opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        stream = opened.extractfile(info) if info.isreg() else None
        if stream is not None:
            yield _Member(info.name, info.size, stream)


def _too_large(archive: Path, limits: ArchiveLimits) -> UnreadableScan:
    return UnreadableScan(
        "archive beyond the limits",
        where=archive,
        expected=Sentence(
            "at most {files} files of {file_bytes} GiB, together {bytes} GiB",
            files=limits.files,
            file_bytes=limits.file_bytes >> 30,
            bytes=limits.bytes >> 30,
        ),
        action="Unpack it yourself if you trust it",
    )
