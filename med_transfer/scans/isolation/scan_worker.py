"""The parent's interface to a child process that reads scans."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from med_transfer.errors import MedTransferError, ScanAborted
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.isolation.child import ENVIRONMENT, GRACE_SECONDS
from med_transfer.scans.isolation.limits import GIB, IN_PROCESS, SECONDS, ReadLimits
from med_transfer.scans.isolation.pipe import receive, send, widen
from med_transfer.scans.isolation.remarks import Remarks, repeat_remarks

Result = TypeVar("Result")
Item = TypeVar("Item")
_SERVE = "from med_transfer.scans.isolation.child import serve; serve()"
_START_SECONDS = 300.0  # for loading libraries on a busy machine
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # one core per child
_CLOSED = (OSError, ValueError)  # a pipe whose other end has ended, or which another thread has closed
_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()  # of this process at import


@dataclass(frozen=True)
class _Child:
    """A child process with what belongs to it, so that another thread's ``close`` ends it whole and touches no other.

    Attributes:
        process: it reads requests from stdin and writes answers to stdout.
        folder: for its temporary files, which a kill leaves behind.
        limits: in force in it.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    limits: ReadLimits

    def end(self) -> None:
        """Kill it and remove its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)  # before the kill: if stopped here, the child cleans up
        self.process.kill()
        self.process.wait()
        for pipe in filter(None, (self.process.stdin, self.process.stdout)):
            with contextlib.suppress(OSError):
                pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class ScanWorker:
    """A child process that calls functions; calls from several threads run one at a time.

    Args:
        limits: for one call, or one item of :meth:`map`; None for those of the environment when the child starts.
        loads: module that the child imports before limits apply, with the functions to be called. It must not be a
            package that imports them lazily.
    """

    limits: ReadLimits | None = None
    loads: str = "med_transfer.scans.reading"
    _child: _Child | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def call(
        self, function: Callable[..., Result], *arguments: Any, where: object = "", longer: float = 0.0, **options: Any
    ) -> Result:
        """Return ``function(*arguments, **options)`` as called in the child.

        Args:
            function: importable from its module.
            arguments, options: anything that can be pickled.
            where: the scan to name in an error.
            longer: seconds allowed beyond the limit.

        Raises:
            ScanAborted: it exceeded a limit, ended the child, or raised an unexpected error.
            MedTransferError: raised by the function.
        """
        with self._lock, self._closed_on_error():
            child = self._request(function, arguments, options, streamed=False, longer=longer)
            return self._answer(child, where, longer)

    def map(
        self, function: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item]
    ) -> list[Result | ScanAborted]:
        """Return the results of ``function(items)``, which yields one per item, with an error in place of a failed one.

        Raises:
            MedTransferError: raised by the function.
        """
        results: list[Result | ScanAborted] = []
        with self._lock, self._closed_on_error():
            while len(results) < len(items):
                try:
                    child = self._request(function, (items[len(results) :],), {}, streamed=True)
                    while len(results) < len(items):
                        results.append(self._answer(child, items[len(results)]))
                except ScanAborted:  # several may be read at once, so this item may not be the cause: retry it alone
                    results.append(self._alone(function, items[len(results)]))
        return results

    def _alone(self, function: Callable[[Sequence[Item]], Iterable[Result]], item: Item) -> Result | ScanAborted:
        try:
            return self._answer(self._request(function, ([item],), {}, streamed=True), item)
        except ScanAborted as error:
            return error

    def close(self) -> None:
        """Kill the child; the next call starts another. Other threads may call it, even during a call."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __enter__(self) -> ScanWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close the child after Ctrl-C or an unexpected error: an unread answer may still be in the pipe."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, MedTransferError):
                self.close()
            raise

    def _request(
        self, function: Callable, arguments: tuple, options: dict, *, streamed: bool, longer: float = 0.0
    ) -> _Child:
        environment = {name: text for name, text in os.environ.items() if name.startswith(ENVIRONMENT)}
        name, folder = (function.__module__, function.__qualname__), ""
        with contextlib.suppress(FileNotFoundError):  # the working directory may have been deleted
            folder = str(Path.cwd())
        temporary = [unpacked for owner, unpacked in _temporary if owner == os.getpid()]
        message = (folder, environment, temporary, name, arguments, options, streamed, longer)
        with contextlib.suppress(*_CLOSED):  # the child has ended since the last call
            return self._sent(message, fresh=False)
        try:
            return self._sent(message, fresh=True)
        except _CLOSED as error:
            raise _not_started(error) from error

    def _sent(self, message: object, *, fresh: bool) -> _Child:
        child = self._running(fresh=fresh)
        send(child.process.stdin, message)
        return child

    def _running(self, *, fresh: bool) -> _Child:
        child = self._child
        if child is not None and not fresh and child.process.poll() is None:
            return child
        self.close()
        child = self._child = self._started()
        widen(child.process.stdin)
        self._receive(child, "the process that reads scans", _START_SECONDS)
        return child

    def _started(self) -> _Child:
        limits = self.limits or ReadLimits.from_environment()
        folder = Path(tempfile.mkdtemp(prefix="med_transfer-"))
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100  '' is the working directory
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, str(limits.seconds), str(limits.gib), str(folder), self.loads],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libraries print messages that repeat our errors
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path, "TMPDIR": str(folder)},
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _not_started(error) from error
        if hasattr(os, "sched_setaffinity"):  # the calling thread may be pinned to one core; the child must not be
            with contextlib.suppress(OSError):  # it has ended, or the process's cores have changed
                os.sched_setaffinity(process.pid, _CORES)
        return _Child(process, folder, limits)

    def _answer(self, child: _Child, where: object, longer: float = 0.0) -> Any:
        seconds = child.limits.seconds
        kind, value, remarks = self._receive(child, where, seconds and seconds + longer)
        repeat_remarks(remarks)
        if kind == "memory":
            self.close()
            raise _aborted(Sentence("needs more than {gib:g} GiB of memory", gib=child.limits.gib), where)
        if kind == "error":
            raise value
        if kind == "unforeseen":
            raise ScanAborted(Sentence("cannot be read ({error})", error=value), where=where)
        return value

    def _receive(self, child: _Child, where: object, seconds: float) -> tuple[str, Any, Remarks]:
        process = child.process
        try:
            return receive(_Awaited(process.stdout, seconds))
        except TimeoutError:
            self.close()
            raise _aborted(Sentence("not read within {seconds:g} s", seconds=seconds), where) from None
        except (EOFError, *_CLOSED):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            self.close()
            raise _aborted(_cause_of_death(process.returncode), where) from None


@dataclass(frozen=True)
class _Awaited:
    """A pipe whose every read times out after ``seconds`` (0: never), since a child may stop in mid-answer."""

    pipe: Any
    seconds: float

    def readinto(self, part: memoryview) -> int:
        if not wait([self.pipe.fileno()], self.seconds or None):
            raise TimeoutError
        return self.pipe.readinto(part)


def _aborted(found: str, where: object) -> ScanAborted:
    return ScanAborted(
        found,
        where=where,
        expected="a scan that can be read",
        action=Sentence("If the scan is sound, raise {seconds} or {gib}", seconds=SECONDS, gib=GIB),
    )


def _not_started(error: Exception) -> ScanAborted:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return ScanAborted(
        Sentence("no process to read scans in can be started ({error})", error=reason),
        action=Sentence("{setting}=1 reads them without one, and without its limits", setting=IN_PROCESS),
    )


def _cause_of_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return Sentence("the system ended the process that read it, as it does when memory runs out")
    if code == -signal.SIGALRM:
        return Sentence("not read in time")
    if code < 0:
        return Sentence("reading it crashed (signal {signal})", signal=-code)
    return Sentence("reading it ended with code {code}", code=code)


_temporary: list[tuple[int, str]] = []  # process ID and folder: a fork must not use its parent's


def temporary_folder() -> Path:
    """A folder private to this user, removed when the process ends, or by its child if the process is killed."""
    folder = tempfile.mkdtemp(prefix="med_transfer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _temporary.append((os.getpid(), folder))
    return Path(folder)
