"""Locks: one run at a time in a folder or on a table, and one kind of job in a folder.

A lock file names its owner: machine, process and start time. The process holds an ``flock`` on it for as long as it
lives; a lock file that a killed process left behind is taken over. Network drives need not share locks between
machines, so the owner also touches the file regularly, and another machine goes by its modification time.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from med_transfer.atomic import output_error
from med_transfer.atomic.partial_files import remove, remove_stale, remove_whole
from med_transfer.errors import FolderInUse, UsageError

log = logging.getLogger(__name__)

LOCK_FILE = ".in-use.json"
_BEAT_SECONDS, _DEAD_AFTER_SECONDS = 20.0, 180.0  # for owners on other machines

Job = Literal[
    "a search",
    "a pretraining",
    "a batch of predictions",
    "a ranking of backbones",
    "a label budget",
    "a bundle",
    "a run",
    "an evaluation",
]
# Each job is recognised by a file that only it writes; the first one found counts.
_JOBS: dict[str, Job] = {
    "tuning.yaml": "a search",
    "source.lock.json": "a pretraining",
    "batch.json": "a batch of predictions",
    "selection.json": "a ranking of backbones",
    "budget.json": "a label budget",
    "med_transfer.json": "a bundle",
    "cohort.lock.json": "a run",
    "evaluation.json": "an evaluation",
    "metrics.json": "an evaluation",  # written before evaluation.json existed
}


@contextmanager
def sole_writer(folder: Path, job: Job | None = None) -> Iterator[None]:
    """Lock a folder against other runs while the block runs.

    Args:
        folder: created if it does not exist.
        job: the kind of job. A folder that holds another kind is refused: a search in a run's folder would mix its
            files with those of the run, and an evaluation would replace them.

    Raises:
        FolderInUse: another run is writing to the folder.
        UsageError: the folder holds another kind of job.
        OutputError: the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        require_same_job(folder, job)
    except OSError as error:
        raise output_error(path, error, folder) from error
    with _held(path):
        yield


@contextmanager
def sole_writer_of(table: Path) -> Iterator[None]:
    """Lock one table, and the files written beside it, in a folder that other runs may use.

    Raises:
        FolderInUse: another run is writing the table.
        OutputError: its folder cannot be written.
    """
    with _held(table.with_name(f".{table.name}{LOCK_FILE}")):
        yield


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs. Raises FolderInUse, OutputError."""
    folder, ended = path.parent, threading.Event()
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise output_error(path, error, folder) from error
    try:
        _write_owner(path, file)
        remove_stale(folder)
        threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        remove(path)
        file.close()
        if new:
            with suppress(OSError):
                folder.rmdir()  # only if empty: the run was refused before it wrote anything


def require_same_job(folder: Path, job: Job | None) -> None:
    """Raises UsageError: the folder holds another kind of job; OSError: the folder cannot be read."""
    there = next((what for file, what in _JOBS.items() if (folder / file).exists()), job)
    if job is not None and there != job:
        raise UsageError(
            f"the folder holds {there}",
            where=folder,
            expected=f"a new folder, or one that holds {job}",
            action="Choose another -o",
        )


def _locked(path: Path) -> BinaryIO:
    """Open and lock the lock file. Raises FolderInUse, OSError."""
    while True:
        file = path.open("a+b", buffering=0)  # unbuffered, so that close() does not retry a failed write
        try:
            free = _lock(file)
            if free and path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                _take_over(path, file)
                return file
            if not free:
                raise _in_use(path, _owner(file))
        except BaseException:
            file.close()
            raise
        file.close()  # its owner removed it meanwhile: try again


def _lock(file: BinaryIO) -> bool:
    """Try to lock the file; False if another process on this machine holds it. True if files cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.debug("no locks on this file system: %s", error)
    return True


def _take_over(path: Path, file: BinaryIO) -> None:
    """Take the lock file over from an owner that ended without removing it. Raises FolderInUse."""
    owner = _owner(file)
    if not owner:
        return
    still = time.time() - os.fstat(file.fileno()).st_mtime
    if owner.get("machine") != socket.gethostname() and still < _DEAD_AFTER_SECONDS:
        raise _in_use(path, owner)
    process = owner.get("process", "unknown")
    log.warning("%s: taken over from process %s, which ended without removing it", path, process)
    if process.isdigit() and path.name == LOCK_FILE:  # a table's folder may have any subfolders
        for half_written in path.parent.rglob(f".{process}-*.partial.*"):
            remove_whole(half_written)


def _owner(file: BinaryIO) -> dict[str, str]:
    """The owner that the lock file names; empty if none is written."""
    file.seek(0)
    try:
        return {str(key): str(value) for key, value in dict(json.loads(file.read() or b"{}")).items()}
    except (TypeError, ValueError):
        return {"process": "unknown"}


def _write_owner(path: Path, file: BinaryIO) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    owner = {"machine": socket.gethostname(), "process": os.getpid(), "since": since}
    try:
        file.truncate(0)
        file.write(json.dumps(owner).encode() + b"\n")
    except OSError as error:
        raise output_error(path, error, path.parent) from error


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _in_use(path: Path, owner: dict[str, str]) -> FolderInUse:
    who = f"process {owner.get('process', 'unknown')} on {owner.get('machine', 'an unknown machine')}"
    table = path.name.removesuffix(LOCK_FILE).removeprefix(".")
    return FolderInUse(
        f"another run is active here: {who}, since {owner.get('since', 'a moment ago')}",
        where=path.with_name(table) if table else path.parent,
        expected=f"one run at a time {'for a table' if table else 'in a folder'}",
        action=f"Wait for it, or choose another folder; if it is no longer running, remove {path.name}",
    )
