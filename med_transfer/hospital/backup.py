"""A copy of all that a node goes on from: its databases as they are at one moment, and the files that they name.

A backup is a folder like the node's own, and ``SHA256SUMS``, which ``sha256sum --check`` reads; that file is written
last, so that a backup without it is none. It holds images and results with names: keep it as you keep images.
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
from med_transfer.hospital import record
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.database import connected, read_only, transaction

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
_ATTEMPTS = 5  # each begins with a new moment; files vanish where the node deletes what it has kept long enough
_FILES = "SELECT file FROM instance UNION SELECT file FROM result UNION SELECT file FROM aside"
_NAMED = f"SELECT file FROM ({_FILES}) WHERE file != ''"


@dataclass(frozen=True)
class Backup:
    """How much there is in one."""

    files: int
    bytes: int


def back_up(node: NodeConfig, out: Path) -> Backup:
    """Copy a node's folder, also while the node runs.

    Raises:
        ScanNotFound: no node has run here.
        FolderInUse: another backup is written there.
        OutputError: the folder is not empty, or cannot be written; the node is of a newer version.
    """
    if not node.queue_file.exists():
        raise ScanNotFound("no node has run here", where=node.folder, action="Run med-transfer serve first")
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
    _note(node.queue_file, "backed up", files=len(files))
    return Backup(len(files), size)


def restore(node: NodeConfig, backup: Path) -> Backup:
    """Put a backup into the place of a node that is not there yet; called again after a kill, the rest of it.

    Raises:
        UsageError: no backup, not a whole one, or changed since.
        FolderInUse: a node runs there.
        OutputError: the node's folder is not empty, or cannot be written; the backup is of a newer version.
    """
    sums = _checked(backup)
    if node.queue_file.name in sums:
        read_only(backup / node.queue_file.name).close()
    with sole_writer(node.folder):
        try:
            there = _restored_before(node, sums)
            node.folder.chmod(0o700)  # before the first name is in it
            # The queue last: without it there is no node.
            for name in sorted(sums.keys() - there, key=lambda name: (name == node.queue_file.name, name)):
                with atomic_path(node.folder / name) as copy:
                    shutil.copy2(backup / name, copy)
            for folder in (node.folder, *(path for path in node.folder.rglob("*") if path.is_dir())):
                folder.chmod(0o700)
        except OSError as error:
            raise output_error(node.folder, error) from error
        with closing(sqlite3.connect(node.queue_file)) as database:
            found = record.audit(database)
        _note(node.queue_file, "restored", entries=found.entries, last_hash=found.last_hash)
    return Backup(len(sums), sum((backup / name).stat().st_size for name in sums))


def _restored_before(node: NodeConfig, sums: Mapping[str, str]) -> set[str]:
    """The files that a restore which was stopped has put there; without its queue it is no node yet.

    Raises:
        OutputError: another file is there.
        OSError: one cannot be read.
    """
    files = {path.relative_to(node.folder): path for path in node.folder.rglob("*") if path.is_file()}
    there = {name.as_posix(): path for name, path in files.items() if not _is_passing(name)}
    if node.queue_file.exists() or any(sums.get(name) != sha256_of(path) for name, path in there.items()):
        _require_empty(node.folder)
    return set(there)


def _copy(node: NodeConfig, out: Path) -> None:
    """Raises OutputError, OSError."""
    for _ in range(_ATTEMPTS):
        for database in node.folder.glob("*.sqlite"):
            _snapshot(database, out / database.name)
        named = _named(out / node.queue_file.name)
        for image in (out / "incoming").glob("*/*"):  # of an earlier attempt
            if image.relative_to(out).as_posix() not in named:
                image.unlink()
        others = (path.relative_to(node.folder).as_posix() for path in _files(node.folder))
        _copy_files(node.folder, out, named.union(name for name in others if not name.startswith("incoming/")))
        lost = {name for name in named if not (out / name).exists()}
        if lost <= _named(node.queue_file):  # it forgets a file before it deletes it: these were lost before
            if lost:
                log.warning("%d files that the queue names are not in the node's folder, nor in the backup", len(lost))
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
    """Those that are whole, and no database's."""
    for path in folder.rglob("*"):
        is_database = path.suffix in (".sqlite", ".sqlite-wal", ".sqlite-shm")
        if path.is_file() and not is_database and not _is_passing(path.relative_to(folder)):
            yield path


def _is_passing(path: Path) -> bool:
    """Whether it is there only as long as somebody writes, itself or the folder that it lies in."""
    return path.name == LOCK_FILE or any(".partial." in part for part in path.parts)


def _snapshot(source: Path, copy: Path) -> None:
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(source, timeout=30)) as database, closing(sqlite3.connect(copy)) as target:
        database.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file
    copy.chmod(0o600)


def _note(queue_file: Path, event: str, **facts: object) -> None:
    with closing(connected(queue_file)) as database, transaction(database):
        record.append(database, event, **facts)


def _checked(backup: Path) -> dict[str, str]:
    """Names of a backup's files, each as it was written, and their hashes. Raises UsageError."""
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
