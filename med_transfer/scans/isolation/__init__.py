"""Reads untrusted files in a child process with limits on time and memory.

A scan from outside may declare 10^12 voxels, decompress to many times its size, crash the library that reads it, or
hang it. Scans are therefore opened in a child process that is reused from scan to scan::

    volume = isolated(read_scan, path, where=path)          # this process's child
    with ScanWorker(ReadLimits(seconds=60)) as worker:      # a separate child, for example one per thread
        volume = worker.call(read_scan, path, where=path)

The child is a new interpreter, not a fork: threads, locks and GPUs of the parent do not affect it, and a script needs
no ``if __name__ == "__main__"``. Arrays are returned with pickle protocol 5, their buffers out of band. Ctrl-C reaches
only the parent; when the parent ends, for whatever reason, so does the child. If the child ends, that scan raises
ScanAborted, and the next one gets a new child.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from med_transfer.errors import MedTransferError, ScanAborted
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.isolation.child import error_location, is_child
from med_transfer.scans.isolation.limits import IN_PROCESS
from med_transfer.scans.isolation.scan_worker import ScanWorker

Result = TypeVar("Result")
Item = TypeVar("Item")

_own: dict[int, ScanWorker] = {}  # by process ID: a fork must not use its parent's child


def worker() -> ScanWorker | None:
    """This process's worker; None in a child, on Windows, or if MED_TRANSFER_READ_IN_PROCESS is set."""
    if is_child() or os.name != "posix" or os.environ.get(IN_PROCESS):
        return None
    pid = os.getpid()
    if pid not in _own and _own.setdefault(pid, made := ScanWorker()) is made:  # another thread may be first
        atexit.register(_close, pid)
    return _own[pid]


def _close(pid: int) -> None:
    if os.getpid() == pid and pid in _own:
        _own[pid].close()


def isolated(
    function: Callable[..., Result], *arguments: Any, where: object = "", longer: float = 0.0, **options: Any
) -> Result:
    """:meth:`ScanWorker.call` of this process's worker; a plain call if :func:`worker` is None."""
    if own := worker():
        return own.call(function, *arguments, where=where, longer=longer, **options)
    with _unexpected_as_aborted(where, Sentence("read")):
        return function(*arguments, **options)


def isolated_map(
    function: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item]
) -> list[Result | ScanAborted]:
    """:meth:`ScanWorker.map` of this process's worker; a plain call if :func:`worker` is None."""
    own = worker()
    return own.map(function, items) if own else list(function(items))


def confined(where: object) -> AbstractContextManager[None]:
    """Raise ScanAborted in place of any unexpected error, so that a batch continues with the next scan."""
    return _unexpected_as_aborted(where, Sentence("processed"))


@contextmanager
def _unexpected_as_aborted(where: object, what: str) -> Iterator[None]:
    try:
        yield
    except MedTransferError:
        raise
    except Exception as error:
        if is_child() and isinstance(error, MemoryError):  # the child reports its memory limit itself
            raise
        raise ScanAborted(
            Sentence("cannot be {what} ({error})", what=what, error=error_location(error)), where=where
        ) from error
