"""Temporary names of files that are being written, and removal of those that killed processes left behind."""

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
_DAY_SECONDS = 86_400.0  # no file takes this long to write


def partial_path(path: Path) -> Path:
    """A temporary sibling to write to; the first call for a folder removes what killed processes left in it.

    The name holds the process ID and a hash of the machine, so that no run removes a file that another is writing.
    """
    _remove_stale_once(path.parent)
    return path.with_name(f".{os.getpid()}-{_machine()}{uuid.uuid4().hex[:8]}.partial.{path.name}")


@functools.lru_cache(maxsize=1024)
def _remove_stale_once(folder: Path) -> None:
    remove_stale(folder)


def remove_stale(folder: Path) -> None:
    """Remove partial files and folders directly in ``folder`` whose process has ended."""
    with suppress(OSError):  # the folder does not exist or is not ours: it holds no partial files of ours
        for path in folder.iterdir():
            if _is_stale(path):
                remove_whole(path)


def _is_stale(path: Path) -> bool:
    name = _PARTIAL.fullmatch(path.name)
    if name is None:
        return False
    if name["machine"] == _machine() and os.name != "nt":  # on Windows, os.kill(process, 0) ends the process
        return not _is_running(int(name["process"]))
    return time.time() - path.lstat().st_mtime > _DAY_SECONDS


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs, under another user
        pass
    return True


@functools.cache
def _machine() -> str:
    """Four hexadecimal digits that identify the PID namespace: a machine, or a container on it."""
    try:
        counted_by = Path("/proc/self/ns/pid").readlink()
    except OSError:
        counted_by = Path()
    return hashlib.sha256(f"{socket.gethostname()} {counted_by}".encode()).hexdigest()[:4]


def remove_whole(path: Path) -> None:
    """Remove a file or a whole folder; failures are ignored."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else remove(path)


def remove(path: Path) -> None:
    """Remove a file if it exists; failures are ignored."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the parent is not a folder or not ours: it holds no file of ours
