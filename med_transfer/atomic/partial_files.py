"""Files that are being written beside their place, and what a kill has left of them."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

_PARTIAL = re.compile(r"\.(?P<process>\d+)-(?P<machine>[0-9a-f]{4})[0-9a-f]+\.partial\..+", re.DOTALL)
_DAY_SECONDS = 86_400.0  # no file takes as long to write


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
                remove_whole(path)


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


def remove_whole(path: Path) -> None:
    """A file, or a folder and what is in it."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else remove(path)


def remove(path: Path) -> None:
    """A file, if it is there and ours."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the parent is not a folder or not ours: then there is nothing of ours in it
