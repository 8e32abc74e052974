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
import importlib
import logging
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from med_transfer.errors import MedTransferError, ScanAborted, UsageError
from med_transfer.errors.sentence import Sentence

Result = TypeVar("Result")
Item = TypeVar("Item")
Remarks = list[dict[str, object]]  # log records of another process
SECONDS, GIB = "MED_TRANSFER_READ_SECONDS", "MED_TRANSFER_READ_GIB"
IN_PROCESS = "MED_TRANSFER_READ_IN_PROCESS"  # set: no child, for a debugger
_ENVIRONMENT = "MED_TRANSFER_"  # variables of this prefix are the child's as they are now, not as when it started
_SERVE = f"from {__name__} import serve; serve()"
_COUNT, _SIZE = struct.Struct(">I"), struct.Struct(">Q")
_GRACE_SECONDS = 10.0  # after which the kernel ends a child whose parent is no more
_LOOK_SECONDS = 1.0  # between two looks of a child whether its parent lives
_START_SECONDS = 300.0  # for loading libraries on a busy machine
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # a core a child
_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()  # of this process as it began
_PIPE_BYTES, _SET_PIPE_SIZE = 1 << 20, 1031  # F_SETPIPE_SZ of Linux


@dataclass(frozen=True)
class ReadLimits:
    """Of one scan: seconds, and GiB of memory beyond what the reading program itself takes (0: no such limit)."""

    seconds: float = 300.0
    gib: float = 8.0

    @classmethod
    def from_environment(cls) -> ReadLimits:
        """Those of ``MED_TRANSFER_READ_SECONDS`` and ``MED_TRANSFER_READ_GIB``. Raises UsageError."""
        return cls(_number(SECONDS, cls.seconds), _number(GIB, cls.gib))


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise UsageError(f"{text!r}", where=name, expected="a number, 0 or more; 0 sets no limit")
    return value


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
        if _serving and isinstance(error, MemoryError):  # the child's limit, which it tells of itself
            raise
        raise ScanAborted(
            Sentence("cannot be {what} ({error})", what=what, error=_words(error)), where=where
        ) from error


def _words(error: Exception) -> str:
    """What and where; not its own words, in which a parser may quote a patient's name or date."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where


# In the parent ------------------------------------------------------------------------------------------------


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
        environment = {name: text for name, text in os.environ.items() if name.startswith(_ENVIRONMENT)}
        name, folder = (function.__module__, function.__qualname__), ""
        with contextlib.suppress(FileNotFoundError):  # of now, which somebody may have deleted
            folder = str(Path.cwd())
        for fresh in (False, True):
            process = self._running(fresh=fresh)
            try:
                _send(process.stdin, (folder, environment, _of_process(), name, arguments, options, streamed, longer))
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
        _widen(self._process.stdin)
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
            return _receive(_Awaited(process.stdout, seconds))
        except TimeoutError:
            self.close()
            raise _aborted(Sentence("not read within {seconds:g} s", seconds=seconds), where) from None
        except EOFError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
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


_own: dict[int, ScanWorker] = {}  # by process: a fork must not talk to its parent's child
_serving = False


def worker() -> ScanWorker | None:
    """This process's own; None in a child, and where there are no pipes to wait for (Windows)."""
    if _serving or os.name != "posix" or os.environ.get(IN_PROCESS):
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


# In the child -------------------------------------------------------------------------------------------------

_temporary_of_parent: list[str] = []


def serve() -> None:
    """Answer requests until there are no more."""
    global _serving
    _serving = True
    seconds, gib, temporary = float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):  # a library that prints must not print into an answer
        os.dup2(nowhere, standard)
    watching = threading.Thread(target=_end_with, args=(os.getppid(), temporary), daemon=True)
    watching.start()
    importlib.import_module(sys.argv[4])
    _widen(answers)
    _limit(gib)
    with contextlib.suppress(EOFError, BrokenPipeError):
        _send(answers, ("ready", None, []))
        while _serve_one(_receive(requests), answers, seconds) != "memory":  # which is all over the heap then
            pass
    watching.join(2 * _LOOK_SECONDS)  # the parent has closed its end, or ended
    shutil.rmtree(temporary, ignore_errors=True)


def _serve_one(request: tuple, answers: BinaryIO, seconds: float) -> str:
    """How it ended."""
    folder, environment, _temporary_of_parent[:], (module, name), arguments, options, streamed, longer = request
    with contextlib.suppress(OSError):  # the parent's folder may be gone
        os.chdir(folder)
    for stale in [key for key in os.environ if key.startswith(_ENVIRONMENT)]:
        del os.environ[stale]
    os.environ.update(environment)
    run = partial(attrgetter(name)(importlib.import_module(module)), *arguments, **options)
    results = iter(run() if streamed else (run() for _ in range(1)))
    while True:
        with collected_remarks() as remarks:
            kind, value = _outcome(results, seconds and seconds + longer)
        if kind == "end":
            return kind
        try:
            _send(answers, (kind, value, remarks))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            _send(answers, ("unforeseen", f"{type(error).__name__}: {error}", remarks))
        if kind != "value":
            return kind


@contextlib.contextmanager
def collected_remarks() -> Iterator[Remarks]:
    """What is logged meanwhile, from warnings on, for :func:`repeat_remarks` in another process."""
    remarks: Remarks = []
    handler, package = _Collecting(remarks), logging.getLogger("med_transfer")
    package.addHandler(handler)
    try:
        yield remarks
    finally:
        package.removeHandler(handler)


def repeat_remarks(remarks: Remarks) -> None:
    """Log what was logged in another process."""
    for record in map(logging.makeLogRecord, remarks):
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


class _Collecting(logging.Handler):
    def __init__(self, remarks: Remarks) -> None:
        super().__init__(logging.WARNING)
        self._remarks = remarks

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the template and its values apart, since remarks that are alike are counted by their template."""
        of_record = {name: getattr(record, name) for name in ("name", "levelno", "levelname", "msg", "created")}
        values = record.args if isinstance(record.args, tuple) else ()
        plain = tuple(value if isinstance(value, int | float) else str(value) for value in values)
        self._remarks.append({**of_record, "args": plain, "kind": getattr(record, "kind", None)})


def _outcome(results: Iterator[Any], seconds: float) -> tuple[str, Any]:
    """What becomes of the next one; the kernel ends a child that nobody watches any more."""
    if seconds:
        signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)
    try:
        return "value", next(results)
    except StopIteration:
        return "end", None
    except MedTransferError as error:
        return "error", error
    except MemoryError:
        return "memory", None
    except Exception as error:  # corrupt bytes make a parser raise nearly anything
        return "unforeseen", _words(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _end_with(parent: int, temporary: Path) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    for folder in (temporary, *_temporary_of_parent):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _limit(gib: float) -> None:
    """Memory beyond what is in use now; no core file; and of all processes, this one for the system to end."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # Linux only; elsewhere time alone is limited
        Path("/proc/self/oom_score_adj").write_text("1000")
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        if gib:
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (in_use + int(gib * 2**30), hard))


def _widen(pipe: Any) -> None:
    import fcntl

    with contextlib.suppress(OSError):  # Linux only
        fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, _PIPE_BYTES)


# Between them -------------------------------------------------------------------------------------------------


def _send(pipe: Any, message: object) -> None:
    """Number of parts, their sizes, the parts: the pickle, and the buffers of its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    parts = [pickle.dumps(message, 5, buffer_callback=buffers.append), *(buffer.raw() for buffer in buffers)]
    sizes = b"".join(_SIZE.pack(memoryview(part).nbytes) for part in parts)
    for part in (_COUNT.pack(len(parts)) + sizes, *parts):
        _write(pipe, memoryview(part))
    pipe.flush()


def _write(pipe: Any, part: memoryview) -> None:
    while part.nbytes:
        part = part[pipe.write(part) :]


def _receive(pipe: Any) -> Any:
    (count,) = _COUNT.unpack(_read(pipe, _COUNT.size))
    sizes = [size for (size,) in _SIZE.iter_unpack(_read(pipe, count * _SIZE.size))]
    body, *buffers = [_read(pipe, size) for size in sizes]
    return pickle.loads(body, buffers=buffers)  # between parent and child alone


def _read(pipe: Any, size: int) -> memoryview:
    """Writable, as the arrays that lie in it shall be. Raises EOFError."""
    whole = np.empty(size, np.uint8).data
    rest = whole
    while rest.nbytes:
        read = pipe.readinto(rest)
        if not read:
            raise EOFError
        rest = rest[read:]
    return whole
