"""The child process that reads scans; it serves requests until its parent closes the pipe."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from med_transfer.errors import MedTransferError
from med_transfer.scans.isolation.pipe import receive, send, widen
from med_transfer.scans.isolation.remarks import collected_remarks

ENVIRONMENT = "MED_TRANSFER_"  # prefix of the variables that every request sets anew in the child
GRACE_SECONDS = 10.0  # beyond the time limit, until the kernel ends a child that no parent ended
_LOOK_SECONDS = 1.0  # interval at which a child checks that its parent is alive

_serving = False
_temporary_of_parent: list[str] = []


def serve() -> None:
    """Answer requests until the parent closes the pipe, or memory runs out."""
    global _serving
    _serving = True
    seconds, gib, temporary = float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):  # what a library prints must not mix with the answers
        os.dup2(nowhere, standard)
    watching = threading.Thread(target=_end_with, args=(os.getppid(), temporary), daemon=True)
    watching.start()
    importlib.import_module(sys.argv[4])
    widen(answers)
    _limit(gib)
    with contextlib.suppress(EOFError, BrokenPipeError):
        send(answers, ("ready", None, []))
        while _serve_one(receive(requests), answers, seconds) != "memory":  # then the heap is full: end
            pass
    watching.join(2 * _LOOK_SECONDS)  # the parent has closed its end, or ended
    shutil.rmtree(temporary, ignore_errors=True)


def _serve_one(request: tuple, answers: BinaryIO, seconds: float) -> str:
    """Answer one request; returns how it ended: value, end (of a stream), error, memory or unforeseen."""
    folder, environment, _temporary_of_parent[:], (module, name), arguments, options, streamed, longer = request
    with contextlib.suppress(OSError):  # the parent's folder may be gone
        os.chdir(folder)
    for stale in [key for key in os.environ if key.startswith(ENVIRONMENT)]:
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
            send(answers, (kind, value, remarks))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            send(answers, ("unforeseen", f"{type(error).__name__}: {error}", remarks))
        if kind != "value":
            return kind


def _outcome(results: Iterator[Any], seconds: float) -> tuple[str, Any]:
    """Compute the next result: (kind, value). A timer ends the child if no parent is left to do so."""
    if seconds:
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    try:
        return "value", next(results)
    except StopIteration:
        return "end", None
    except MedTransferError as error:
        return "error", error
    except MemoryError:
        return "memory", None
    except Exception as error:  # corrupt bytes make a parser raise nearly anything
        return "unforeseen", error_location(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _end_with(parent: int, temporary: Path) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    for folder in (temporary, *_temporary_of_parent):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _limit(gib: float) -> None:
    """Limit memory to ``gib`` beyond present use; no core dumps; first choice of the kernel's out-of-memory killer."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # Linux only; elsewhere time alone is limited
        Path("/proc/self/oom_score_adj").write_text("1000")
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        if gib:
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (in_use + int(gib * 2**30), hard))


def is_child() -> bool:
    """Whether this process is a child that reads scans."""
    return _serving


def error_location(error: Exception) -> str:
    """An error's class, file and line; not its message, which may quote a patient's name or date."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
