"""A child process that reads scans, as its parent sees it."""

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
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # a core a child
_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()  # of this process as it began


@dataclass
class ScanWorker:
    """A child process that calls functions. Its methods may be called from any thread, one at a time.

    Args:
        limits: of one call, or of one item of :meth:`map`; None: those of the environment when the child starts.
        loads: module that the child imports before its time and memory are limited; the functions that it will be asked
            for. Not a package that loads them on first use.
    """

    limits: ReadLimits | None = None
    loads: str = "med_transfer.scans.reading"
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _folder: Path = field(default=Path(), init=False, repr=False)  # for temporary files, which a kill leaves behind
    _in_force: ReadLimits = field(default=ReadLimits(), init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def call(
        self, function: Callable[..., Result], *arguments: Any, where: object = "", longer: float = 0.0, **options: Any
    ) -> Result:
        """``function(*arguments, **options)``, a function of a module and what pickle takes.

        Args:
            function, arguments, options: see there.
            where: whose time and memory it is, for the error.
            longer: seconds that it may take beyond the limit.

        Raises:
            ScanAborted: it took too much time or memory, ended the child, or raised something else than our errors.
            MedTransferError: what the function raised.
        """
        with self._lock, self._closed_on_error():
            self._request(function, arguments, options, streamed=False, longer=longer)
            return self._answer(where, longer)

    def map(
        self, function: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item]
    ) -> list[Result | ScanAborted]:
        """``function(items)``, which yields a result for each; the error in place of one that cannot be had."""
        results: list[Result | ScanAborted] = []
        with self._lock, self._closed_on_error():
            while len(results) < len(items):
                try:
                    self._request(function, (items[len(results) :],), {}, streamed=True)
                    while len(results) < len(items):
                        results.append(self._answer(items[len(results)]))
                except ScanAborted:  # where several are read at once, it need not have been this one: see it alone
                    results.append(self._alone(function, items[len(results)]))
        return results

    def _alone(self, function: Callable[[Sequence[Item]], Iterable[Result]], item: Item) -> Result | ScanAborted:
        try:
            self._request(function, ([item],), {}, streamed=True)
            return self._answer(item)
        except ScanAborted as error:
            return error

    def close(self) -> None:
        """End the child. The next call starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        shutil.rmtree(self._folder, ignore_errors=True)  # first: stopped here, the child would do it, and then nobody
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(OSError):
                pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> ScanWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """After Ctrl-C, or an error of ours, an answer may be on its way that nobody waits for."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, MedTransferError):
                self.close()
            raise

    def _request(
        self, function: Callable, arguments: tuple, options: dict, *, streamed: bool, longer: float = 0.0
    ) -> None:
        environment = {name: text for name, text in os.environ.items() if name.startswith(ENVIRONMENT)}
        name, folder = (function.__module__, function.__qualname__), ""
        with contextlib.suppress(FileNotFoundError):  # of now, which somebody may have deleted
            folder = str(Path.cwd())
        for fresh in (False, True):
            process = self._running(fresh=fresh)
            try:
                send(process.stdin, (folder, environment, _of_process(), name, arguments, options, streamed, longer))
                return
            except OSError as error:  # it has ended since the last call
                if fresh:
                    raise _not_started(error) from error

    def _running(self, *, fresh: bool) -> subprocess.Popen[bytes]:
        if self._process is not None and not fresh and self._process.poll() is None:
            return self._process
        self.close()
        self._in_force = self.limits or ReadLimits.from_environment()
        self._folder = Path(tempfile.mkdtemp(prefix="med_transfer-"))
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100  '' is the folder of now
        limits = (str(self._in_force.seconds), str(self._in_force.gib))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _SERVE, *limits, str(self._folder), self.loads],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libraries complain there of what becomes an error of ours
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path, "TMPDIR": str(self._folder)},
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise _not_started(error) from error
        if hasattr(os, "sched_setaffinity"):  # a thread that keeps to one core does not bind its reader
            with contextlib.suppress(OSError):  # it has ended, or the cores are others by now
                os.sched_setaffinity(self._process.pid, _CORES)
        widen(self._process.stdin)
        self._receive("the process that reads scans", _START_SECONDS)
        return self._process

    def _answer(self, where: object, longer: float = 0.0) -> Any:
        seconds = self._in_force.seconds
        kind, value, remarks = self._receive(where, seconds and seconds + longer)
        repeat_remarks(remarks)
        if kind == "memory":
            self.close()
            raise _aborted(Sentence("needs more than {gib:g} GiB of memory", gib=self._in_force.gib), where)
        if kind == "error":
            raise value
        if kind == "unforeseen":
            raise ScanAborted(Sentence("cannot be read ({error})", error=value), where=where)
        return value

    def _receive(self, where: object, seconds: float) -> tuple[str, Any, Remarks]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            return receive(_Awaited(process.stdout, seconds))
        except TimeoutError:
            self.close()
            raise _aborted(Sentence("not read within {seconds:g} s", seconds=seconds), where) from None
        except EOFError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            self.close()
            raise _aborted(_cause_of_death(process.returncode), where) from None


@dataclass(frozen=True)
class _Awaited:
    """A pipe of which each part is waited for so many seconds (0: for ever): a child may stop in mid-answer."""

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
        action=Sentence("See {seconds} and {gib} if it is a sound one", seconds=SECONDS, gib=GIB),
    )


def _not_started(error: OSError) -> ScanAborted:
    return ScanAborted(
        Sentence("no process to read scans in can be started ({error})", error=error.strerror or type(error).__name__),
        action=Sentence("{setting}=1 reads them without one, and without its limits", setting=IN_PROCESS),
    )


def _cause_of_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return Sentence("reading it was ended by the system, as where memory runs out")
    if code == -signal.SIGALRM:
        return Sentence("not read in time")
    return (
        Sentence("reading it crashed (signal {signal})", signal=-code)
        if code < 0
        else Sentence("reading it ended with code {code}", code=code)
    )


_temporary: list[tuple[int, str]] = []  # by process: a fork's are not its parent's


def temporary_folder() -> Path:
    """One for this user alone, removed when the process ends; where a kill keeps it from that, by its child."""
    folder = tempfile.mkdtemp(prefix="med_transfer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _temporary.append((os.getpid(), folder))
    return Path(folder)


def _of_process() -> list[str]:
    return [folder for owner, folder in _temporary if owner == os.getpid()]
