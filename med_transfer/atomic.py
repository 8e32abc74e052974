"""Files that appear whole or not at all, and their hash; CSV that runs nowhere; one run at a time in a folder.

A file is written beside its place and renamed into it.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula and runs it when the file is
opened, whoever named the scan, the class or the patient so. Such a cell is written with an apostrophe before it, which
every reader of the program takes off again: see :func:`csv_line` and :func:`csv_cell`.
"""

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import io
import json
import logging
import os
import re
import shutil
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from med_transfer.errors import FolderInUse, OutputError, UsageError

log = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None}  # None: a library that only saw its write end early
LOCK_FILE = ".in-use.json"
_BEAT_SECONDS, _DEAD_AFTER_SECONDS = 20.0, 180.0  # of an owner on another machine
_PARTIAL = re.compile(r"\.(?P<process>\d+)-(?P<machine>[0-9a-f]{4})[0-9a-f]+\.partial\..+", re.DOTALL)
_DAY_SECONDS = 86_400.0  # no file takes as long to write

# The full-width forms count where the keyboard is Chinese or Japanese. A sign alone is a value, as in "pos +".
_FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠].", re.DOTALL)


@contextmanager
def atomic_path(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary sibling to write to; it becomes ``path`` when the block ends without an error.

    The sibling keeps the file's suffixes, because some writers choose the format by them. Missing parent
    folders are made. A reader sees the old file or the new one, never half of one; its permissions are ``mode`` less
    the process's umask, whatever wrote it.

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
        temporary.chmod(permissions)  # the writer of safetensors makes a file of its own, for its owner alone
        _flush_to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        _remove(temporary)


def partial_path(path: Path) -> Path:
    """A sibling to write to. What kills have left beside it is removed, once for each folder in the life of a process.

    Its name says who writes there, so that nobody takes away what another run is at work on.
    """
    _remove_left_behind(path.parent)
    return path.with_name(f".{os.getpid()}-{_machine()}{uuid.uuid4().hex[:8]}.partial.{path.name}")


@functools.lru_cache(maxsize=1024)
def _remove_left_behind(folder: Path) -> None:
    remove_left_behind(folder)


def remove_left_behind(folder: Path) -> None:
    """Files and folders that a process which has ended was writing to, beside their place in this folder."""
    with suppress(OSError):  # not there yet, or not ours: then nothing of ours is in it
        for path in folder.iterdir():
            if _is_left_behind(path):
                _remove_whole(path)


def _is_left_behind(path: Path) -> bool:
    name = _PARTIAL.fullmatch(path.name)
    if name is None:
        return False
    if name["machine"] == _machine() and os.name != "nt":  # Windows would end the process that is asked
        return not _runs_here(int(name["process"]))
    return time.time() - path.lstat().st_mtime > _DAY_SECONDS


def _runs_here(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        pass
    return True


@functools.cache
def _machine() -> str:
    """Four hexadecimal digits of whoever counts the processes: a machine, or a container on it."""
    try:
        counted_by = Path("/proc/self/ns/pid").readlink()
    except OSError:
        counted_by = Path()
    return hashlib.sha256(f"{socket.gethostname()} {counted_by}".encode()).hexdigest()[:4]


def require_writable(path: Path) -> None:
    """Before the work: a file could be written there. It is tried where the path begins not to exist.

    Raises:
        OutputError: it could not.
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
    """Write a UTF-8 text file atomically, with ``\\n`` at the end of lines. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"))


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there yet, with these permissions from the start; a half one is taken away.

    When this returns, a power cut takes neither its content nor its name: with a new file ext4, XFS and btrfs flush
    what names it, where a file that was renamed would need its folder flushed, too.

    Raises:
        FileExistsError: it is there.
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
    """As :func:`create_file`, and nobody ever meets half of it, whoever reads it meanwhile and whatever is killed.

    Raises:
        FileExistsError: it is there.
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = partial_path(path)
        try:
            _write_new(temporary, content, mode)
            _give_name(temporary, path)
        finally:
            _remove(temporary)
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
        _remove(path)  # ours: nobody's file was there before
        raise


def _give_name(temporary: Path, path: Path) -> None:
    """Rename a file, but not over another, as a plain rename would. Raises FileExistsError, OSError."""
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


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table atomically; a row says what it knows of the columns. Raises OutputError."""
    write_bytes(path, csv_bytes(columns, rows))


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """A table as it is written."""
    lines = [columns, *([row.get(name) for name in columns] for row in rows)]
    return "".join(map(csv_line, lines)).encode("utf-8", "surrogateescape")  # file names may be no UTF-8


def csv_line(cells: Iterable[object]) -> str:
    """One record with its line's end; None is an empty cell, and what would run as a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # it quotes only the line ends that it writes itself
    writer.writerow([f"'{cell}" if isinstance(cell, str) and _runs(cell) else cell for cell in cells])
    return text.getvalue().removesuffix("\r\n") + "\n"


def csv_cell(text: str) -> str:
    """A cell as it was before :func:`csv_line` quoted it."""
    return text[1:] if text.startswith("'") and _runs(text) else text


def _runs(cell: str) -> bool:
    """Whether a spreadsheet would take the cell, or what is left without its apostrophes, for a formula."""
    return bool(_FORMULA.match(cell)) and not _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def output_error(path: Path, error: OSError) -> OutputError:
    """The error tree's word for a failed write."""
    in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
    file = next((place for place in path.parents if place.is_file()), None) if in_the_way else None
    if file is not None:
        found = f"cannot be written: {file.name} is a file"
        return OutputError(found, where=path, expected="a folder of this name, or none", action="Choose another folder")
    reason = error.strerror or type(error).__name__
    action = "Free disk space, or choose another folder" if error.errno in _FULL else "Choose another folder"
    return OutputError(f"cannot be written: {reason}", where=path, action=action)


def _flush_to_disk(path: Path) -> None:
    # Without this a power cut just after the rename can leave an empty file under the final name.
    with path.open("r+b") as file:  # Windows flushes only what can be written
        os.fsync(file.fileno())


def _remove_whole(path: Path) -> None:
    """A file, or a folder and what is in it."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the parent is not a folder or not ours: then there is nothing of ours in it


# One run at a time in a folder --------------------------------------------------------------------------------


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

    A file in it names the owner: machine, process, since when. The system keeps it locked for as long as the process
    lives; one that a kill has left behind is taken over. Whether an owner on another machine lives is told by the
    file's time of change, since a network drive need not pass its lock on.

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
        _remove(path)
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
            _remove_whole(half_written)


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


def sha256_of(path: Path) -> str:
    """Of a file, to tell later whether it is still the same. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
