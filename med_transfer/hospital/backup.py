"""Backup and restore of a node: a consistent snapshot of its databases, and the files that they refer to.

A backup has the layout of the node's folder, plus ``SHA256SUMS`` for ``sha256sum --check``. That file is written last,
so a backup without it is incomplete. It contains images and results with patient names and must be protected as such.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from med_transfer.atomic import atomic_path, output_error, sha256_of, write_text
from med_transfer.atomic.sole_writer import LOCK_FILE, sole_writer
from med_transfer.errors import OutputError, ScanNotFound, UsageError
from med_transfer.errors.numbers import counted
from med_transfer.hospital import record
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.database import connected, read_only, transaction
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.review.access.database import Database

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
_ATTEMPTS = 5  # each with a new snapshot; files vanish when the node deletes studies past their retention
_FILES = "SELECT file FROM instance UNION SELECT file FROM result UNION SELECT file FROM aside"
_NAMED = f"SELECT file FROM ({_FILES}) WHERE file != ''"


@dataclass(frozen=True)
class Backup:
    """Size of a backup."""

    files: int
    bytes: int


def back_up(node: NodeConfig, out: Path) -> Backup:
    """Copy a node's folder, which may be done while the node runs.

    Raises:
        ScanNotFound: no node has run here.
        UsageError: ``out`` is in the node's folder.
        FolderInUse: another backup is being written there.
        OutputError: ``out`` is not empty or cannot be written, files vanish repeatedly while they are copied, or the
            node was written by a newer version.
    """
    if not node.queue_file.exists():
        raise ScanNotFound("no node has run here", where=node.folder, action="Run med-transfer serve first")
    if out.resolve().is_relative_to(node.folder.resolve()):  # the next backup would hold this one, too
        raise UsageError(
            "is in the node's folder", where=out, expected="a folder elsewhere, on another disk if possible"
        )
    read_only(node.queue_file).close()
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        with sole_writer(out):
            _require_empty(out)
            _copy(node, out)
            files = sorted([*_files(out), *out.glob("*.sqlite")])
            sums = "".join(f"{sha256_of(path)}  {path.relative_to(out).as_posix()}\n" for path in files)
            size = sum(path.stat().st_size for path in files)
            write_text(out / SUMS, sums)
    except OSError as error:
        raise output_error(out, error) from error
    with closing(connected(node.queue_file)) as database, transaction(database):
        record.append(database, "backed up", files=len(files))
    return Backup(len(files), size)


def restore(node: NodeConfig, backup: Path) -> Backup:
    """Restore a backup into the folder of a node, which must be empty; an interrupted restore is continued.

    Raises:
        UsageError: the backup is missing, incomplete or changed.
        FolderInUse: a node runs there.
        OutputError: the node's folder is not empty or cannot be written, or the backup is from a newer version.
    """
    sums = _checked(backup)
    if node.queue_file.name in sums:
        read_only(backup / node.queue_file.name).close()
    with sole_writer(node.folder):
        try:
            there = _restored_before(node, sums)
            node.folder.chmod(0o700)  # before it contains patient data
            # The queue is last: until it exists, the folder does not count as a node.
            for name in sorted(sums.keys() - there, key=lambda name: (name == node.queue_file.name, name)):
                with atomic_path(node.folder / name) as copy:
                    shutil.copy2(backup / name, copy)
                    if name == node.queue_file.name:
                        _note_restored(copy)
            for folder in (node.folder, *(path for path in node.folder.rglob("*") if path.is_dir())):
                folder.chmod(0o700)
        except OSError as error:
            raise output_error(node.folder, error) from error
        _end_sessions(node)
    return Backup(len(sums), sum((backup / name).stat().st_size for name in sums))


def _note_restored(queue_file: Path) -> None:
    with closing(Queue(queue_file)) as queue:
        queue.restored(queue.audit())


def _end_sessions(node: NodeConfig) -> None:
    """End all sessions on the review page: people may have signed out since the backup, or lost their rights."""
    if node.access_file.exists():
        with closing(Database(node.access_file)) as database, database.writing() as connection:
            connection.execute("DELETE FROM session")


def _restored_before(node: NodeConfig, sums: Mapping[str, str]) -> set[str]:
    """Names of the files that an interrupted restore has put there already.

    Raises:
        OutputError: the folder is already a node, or contains other files.
        OSError: a file cannot be read.
    """
    files = {path.relative_to(node.folder): path for path in node.folder.rglob("*") if path.is_file()}
    there = {name.as_posix(): path for name, path in files.items() if not _is_temporary(name)}
    if node.queue_file.exists() or any(sums.get(name) != sha256_of(path) for name, path in there.items()):
        _require_empty(node.folder)
    return set(there)


def _copy(node: NodeConfig, out: Path) -> None:
    """Snapshot the databases and copy their files until none is lost meanwhile. Raises OutputError, OSError."""
    for _ in range(_ATTEMPTS):
        for database in node.folder.glob("*.sqlite"):
            _snapshot(database, out / database.name)
        named = _named(out / node.queue_file.name)
        for image in (out / "incoming").glob("*/*"):  # left by an earlier attempt
            if image.relative_to(out).as_posix() not in named:
                image.unlink()
        others = (path.relative_to(node.folder).as_posix() for path in _files(node.folder))
        _copy_files(node.folder, out, named.union(name for name in others if not name.startswith("incoming/")))
        lost = {name for name in named if not (out / name).exists()}
        if lost <= _named(node.queue_file):  # a node removes a file's entry before the file: these were lost before
            if lost:
                what = counted(len(lost), "file")
                log.warning("%s named by the queue: not in the node's folder, nor in the backup", what)
            return
    raise OutputError(
        "files vanish while they are copied", where=node.folder, action="Run it again when less is deleted"
    )


def _named(queue_file: Path) -> set[str]:
    with closing(read_only(queue_file)) as database:
        return {row[0] for row in database.execute(_NAMED)}


def _copy_files(source: Path, out: Path, names: set[str]) -> None:
    for name in sorted(names):
        if (source / name).exists() and not (out / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with atomic_path(out / name) as copy:
                shutil.copy2(source / name, copy)


def _files(folder: Path) -> Iterator[Path]:
    """Completely written files, without those of databases."""
    for path in folder.rglob("*"):
        is_database = path.suffix in (".sqlite", ".sqlite-wal", ".sqlite-shm")
        if path.is_file() and not is_database and not _is_temporary(path.relative_to(folder)):
            yield path


def _is_temporary(path: Path) -> bool:
    """Whether a path is temporary: a lock, or a file or folder that is still being written."""
    return path.name == LOCK_FILE or any(".partial." in part for part in path.parts)


def _snapshot(source: Path, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(source, timeout=30)) as database, closing(sqlite3.connect(copy)) as target:
        database.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # leaves a single file, without a WAL
    copy.chmod(0o600)


def _checked(backup: Path) -> dict[str, str]:
    """Verify a backup; return the names of its files and their hashes. Raises UsageError."""
    try:
        lines = (backup / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UsageError(f"holds no {SUMS}", where=backup, expected="a folder that node backup has finished") from None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name, digest in sums.items():
        path, parts = backup / name, PurePosixPath(name).parts
        if PurePosixPath(name).is_absolute() or ".." in parts or not path.is_file() or path.is_symlink():
            raise UsageError(f"lacks {name}", where=backup, expected=f"the files of {SUMS}")
        if sha256_of(path) != digest:
            raise UsageError(f"{name} is not as it was written", where=backup, action="Take another backup")
    if "queue.sqlite" not in sums:
        raise UsageError("holds no queue", where=backup, expected="a backup of a node")
    return sums


def _require_empty(folder: Path) -> None:
    if folder.exists() and any(path.name != LOCK_FILE for path in folder.iterdir()):
        raise OutputError("is not empty", where=folder, expected="a new or an empty folder", action="Choose another")
