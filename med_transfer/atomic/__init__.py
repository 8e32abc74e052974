"""Atomic file writes, and file hashes.

A file is written under a temporary name beside its destination, then renamed
(:mod:`~med_transfer.atomic.partial_files`). :mod:`~med_transfer.atomic.csv_table` writes tables;
:mod:`~med_transfer.atomic.sole_writer` locks a folder for one run.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from med_transfer.atomic.partial_files import partial_path, remove
from med_transfer.errors import OutputError

log = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None}  # None: a library reported a short write, without errno
_NOT_PERMITTED = {errno.EACCES, errno.EPERM}


@contextmanager
def atomic_path(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary sibling to write to; it replaces ``path`` when the block ends without an error.

    The sibling keeps the suffixes of ``path``, because some writers choose the format by them. Missing parent folders
    are created. Readers see either the old file or the new one, never a partial one. Its permissions are ``mode``
    minus the process's umask, whichever library writes it.

    Raises:
        OutputError: the file cannot be written (disk full, no permission, a folder in its place).
    """
    path = Path(path)
    temporary = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode, exist_ok=False)
        permissions = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(permissions)  # safetensors creates a new file that only its owner can read
        _flush_to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        remove(temporary)


def require_writable(path: Path) -> None:
    """Check before a long job that ``path`` can be written, with a trial file in its nearest existing parent folder.

    Raises:
        OutputError: it cannot.
    """
    try:
        place = next(parent for parent in path.absolute().parents if parent.exists())
        trial = partial_path(place / path.name)
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise output_error(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, without translating newlines. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"))


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Create a new file with the given permissions; a partial file is removed if the write fails.

    Once this returns, both content and name survive a power cut: fsync of a new file also flushes its directory entry
    on ext4, XFS and btrfs. A renamed file would need an fsync of the folder, too.

    Raises:
        FileExistsError: the file exists.
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(path, content, mode)
    except FileExistsError:
        raise
    except OSError as error:
        raise output_error(path, error) from error


def create_whole(path: Path, content: bytes, mode: int) -> None:
    """Like :func:`create_file`, but atomic: no reader sees a partial file, even if this process is killed.

    Raises:
        FileExistsError: the file exists.
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = partial_path(path)
        try:
            _write_new(temporary, content, mode)
            _rename_new(temporary, path)
        finally:
            remove(temporary)
    except FileExistsError:
        raise
    except OSError as error:
        raise output_error(path, error) from error


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Raises FileExistsError, OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        remove(path)  # O_EXCL: this call created it
        raise


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename a file without replacing an existing one, unlike a plain rename. Raises FileExistsError, OSError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        log.debug("no hard links on this file system: %s", error)
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.rename(path)
    _flush_to_disk(path)


def output_error(path: Path, error: OSError, where: Path | None = None) -> OutputError:
    """The :class:`OutputError` for a failed write to ``path``; ``where``: what the message names instead."""
    where = path if where is None else where
    in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
    file = next((place for place in path.parents if place.is_file()), None) if in_the_way else None
    if file is not None:
        found = f"cannot be written: {file.name} is a file"
        return OutputError(
            found, where=where, expected="a folder of this name, or none", action="Choose another folder"
        )
    reason, action = error.strerror or type(error).__name__, "Choose another folder"
    if error.errno in _FULL:
        action = "Free disk space, or choose another folder"
    elif error.errno in _NOT_PERMITTED:
        action = "Choose another folder, or allow this user to write here"
    return OutputError(f"cannot be written: {reason}", where=where, action=action)


def _flush_to_disk(path: Path) -> None:
    # Without this, a power cut just after the rename can leave an empty file under the final name.
    with path.open("r+b") as file:  # Windows flushes only files opened for writing
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
