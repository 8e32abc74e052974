"""One run at a time in a folder, or at a table, and one kind of job in a folder.

A file in it names the owner: machine, process, since when. The system keeps it locked for as long as the process lives;
one that a kill has left behind is taken over. Whether an owner on another machine lives is told by the file's time of
change, since a network drive need not pass its lock on.
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
from med_transfer.atomic.partial_files import remove, remove_left_behind, remove_whole
from med_transfer.errors import FolderInUse, UsageError

log = logging.getLogger(__name__)

LOCK_FILE = ".in-use.json"
_BEAT_SECONDS, _DEAD_AFTER_SECONDS = 20.0, 180.0  # of an owner on another machine

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
# What a folder holds is told by a file that no other job writes; the first that is there counts.
_JOBS: dict[str, Job] = {
    "tuning.yaml": "a search",
    "source.lock.json": "a pretraining",
    "batch.json": "a batch of predictions",
    "selection.json": "a ranking of backbones",
    "budget.json": "a label budget",
    "med_transfer.json": "a bundle",
    "cohort.lock.json": "a run",
    "evaluation.json": "an evaluation",
    "metrics.json": "an evaluation",  # from before the other was written
}


@contextmanager
def sole_writer(folder: Path, job: Job | None = None) -> Iterator[None]:
    """While the block runs, no other run may write to the folder; nor may a job to that of another one.

    Args:
        folder: made where there is none.
        job: what is done in it: a search in the folder of a run would mix its files with those of the run, and an
            evaluation would replace them.

    Raises:
        FolderInUse: another run is at work there.
        UsageError: the folder holds another job.
        OutputError: the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        refuse_another_job(folder, job)
    except OSError as error:
        raise output_error(path, error) from error
    with _held(path):
        yield


@contextmanager
def sole_writer_of(table: Path) -> Iterator[None]:
    """The same for a table in a folder that holds more: no other run may write it and what is put beside it.

    Raises:
        FolderInUse: another run is at work on it.
        OutputError: its folder cannot be written.
    """
    with _held(table.with_name(f".{table.name}{LOCK_FILE}")):
        yield


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """A lock file, while the block runs. Raises FolderInUse, OutputError."""
    folder, ended = path.parent, threading.Event()
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        _write_owner(path, file)
        remove_left_behind(folder)
        threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        remove(path)
        file.close()
        if new:
            with suppress(OSError):
                folder.rmdir()  # of a run that was refused before it wrote anything


def refuse_another_job(folder: Path, job: Job | None) -> None:
    """Raises UsageError: the folder holds another one; OSError: that cannot be seen."""
    there = next((what for file, what in _JOBS.items() if (folder / file).exists()), job)
    if job is not None and there != job:
        raise UsageError(
            f"the folder holds {there}",
            where=folder,
            expected=f"a new folder, or one that holds {job}",
            action="Choose another -o",
        )


def _locked(path: Path) -> BinaryIO:
    """The lock file, ours. Raises FolderInUse, OSError."""
    while True:
        file = path.open("a+b", buffering=0)  # what cannot be written must not be tried again by closing
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
        file.close()  # its owner has removed it meanwhile


def _lock(file: BinaryIO) -> bool:
    """Whether nobody on this machine holds it; where files cannot be locked, nobody is taken to."""
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
    """From an owner that has ended without removing it. Raises FolderInUse."""
    owner = _owner(file)
    if not owner:
        return
    still = time.time() - os.fstat(file.fileno()).st_mtime
    if owner.get("machine") != socket.gethostname() and still < _DEAD_AFTER_SECONDS:
        raise _in_use(path, owner)
    process = owner.get("process", "unknown")
    log.warning("%s: left behind by process %s, which has ended", path, process)
    if process.isdigit() and path.name == LOCK_FILE:  # below a table's folder may lie anything
        for half_written in path.parent.rglob(f".{process}-*.partial.*"):
            remove_whole(half_written)


def _owner(file: BinaryIO) -> dict[str, str]:
    """Empty where nobody has written who it is."""
    file.seek(0)
    try:
        return {str(key): str(value) for key, value in dict(json.loads(file.read() or b"{}")).items()}
    except ValueError:
        return {"process": "unknown"}


def _write_owner(path: Path, file: BinaryIO) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    owner = {"machine": socket.gethostname(), "process": os.getpid(), "since": since}
    try:
        file.truncate(0)
        file.write(json.dumps(owner).encode() + b"\n")
    except OSError as error:
        raise output_error(path, error) from error


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _in_use(path: Path, owner: dict[str, str]) -> FolderInUse:
    who = f"process {owner.get('process', 'unknown')} on {owner.get('machine', 'an unknown machine')}"
    table = path.name.removesuffix(LOCK_FILE).removeprefix(".")
    return FolderInUse(
        f"another run is at work here: {who}, since {owner.get('since', 'a moment ago')}",
        where=path.with_name(table) if table else path.parent,
        expected=f"one run at a time {'for a table' if table else 'in a folder'}",
        action=f"Wait for it, or choose another -o; if it has ended all the same, remove {path.name}",
    )
