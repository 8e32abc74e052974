"""The process in which scans are read: it answers one request after another until its parent closes the pipe."""

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

ENVIRONMENT = "MED_TRANSFER_"  # variables of this prefix are the child's as they are now, not as when it started
GRACE_SECONDS = 10.0  # after which the kernel ends a child whose parent is no more
_LOOK_SECONDS = 1.0  # between two looks of a child whether its parent lives

_serving = False
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
    widen(answers)
    _limit(gib)
    with contextlib.suppress(EOFError, BrokenPipeError):
        send(answers, ("ready", None, []))
        while _serve_one(receive(requests), answers, seconds) != "memory":  # which is all over the heap then
            pass
    watching.join(2 * _LOOK_SECONDS)  # the parent has closed its end, or ended
    shutil.rmtree(temporary, ignore_errors=True)


def _serve_one(request: tuple, answers: BinaryIO, seconds: float) -> str:
    """How it ended."""
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
    """What becomes of the next one; the kernel ends a child that nobody watches any more."""
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
        return "unforeseen", words(error)
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


def is_child() -> bool:
    """Whether this process is one."""
    return _serving


def words(error: Exception) -> str:
    """What and where; not its own words, in which a parser may quote a patient's name or date."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
