"""Opens files of strangers in a process of its own, under limits of time and memory.

A scan from outside may claim 10^12 voxels, unpack to far more than it is, crash the library that reads it, or never
end. So what opens scans runs in a child process that lives on from scan to scan::

    volume = isolated(read_scan, path, where=path)          # this process's child
    with ScanWorker(ReadLimits(seconds=60)) as worker:      # one of your own, for example one a thread
        volume = worker.call(read_scan, path, where=path)

The child is a fresh interpreter, not a fork: threads, locks and GPUs of the parent are no matter, and a script needs no
``if __name__ == "__main__"``. Arrays come back without a copy through pickle (protocol 5, buffers out of band). Ctrl-C
reaches the parent only; a parent that ends, however it does, takes the child along. Whatever ends the child is a
ScanAborted of that scan, and the next scan gets a new child.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from med_transfer.errors import MedTransferError, ScanAborted
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.isolation.child import is_child, words
from med_transfer.scans.isolation.limits import IN_PROCESS
from med_transfer.scans.isolation.scan_worker import ScanWorker

Result = TypeVar("Result")
Item = TypeVar("Item")

_own: dict[int, ScanWorker] = {}  # by process: a fork must not talk to its parent's child


def worker() -> ScanWorker | None:
    """This process's own; None in a child, and where there are no pipes to wait for (Windows)."""
    if is_child() or os.name != "posix" or os.environ.get(IN_PROCESS):
        return None
    pid = os.getpid()
    if pid not in _own and _own.setdefault(pid, made := ScanWorker()) is made:  # another thread may be quicker
        atexit.register(_close, pid)
    return _own[pid]


def _close(pid: int) -> None:
    if os.getpid() == pid and pid in _own:
        _own[pid].close()


def isolated(
    function: Callable[..., Result], *arguments: Any, where: object = "", longer: float = 0.0, **options: Any
) -> Result:
    """:meth:`ScanWorker.call` of this process's worker; within a child, and on Windows, a plain call."""
    if own := worker():
        return own.call(function, *arguments, where=where, longer=longer, **options)
    with _foreseen(where, Sentence("read")):
        return function(*arguments, **options)


def isolated_map(
    function: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item]
) -> list[Result | ScanAborted]:
    """:meth:`ScanWorker.map` of this process's worker; within a child, and on Windows, a plain call."""
    own = worker()
    return own.map(function, items) if own else list(function(items))


@contextlib.contextmanager
def confined(where: object) -> Iterator[None]:
    """Make an error that nobody foresaw one of this scan, so that a batch goes on. Raises ScanAborted."""
    with _foreseen(where, Sentence("processed")):
        yield


@contextlib.contextmanager
def _foreseen(where: object, what: str) -> Iterator[None]:
    try:
        yield
    except MedTransferError:
        raise
    except Exception as error:
        if is_child() and isinstance(error, MemoryError):  # the child's limit, which it tells of itself
            raise
        raise ScanAborted(Sentence("cannot be {what} ({error})", what=what, error=words(error)), where=where) from error
