"""Ways to end a process that reads scans, by name; the child of an isolated call imports this module."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from med_transfer.errors import GeometryRejected


def end(name: str) -> str:
    match name:
        case "hang":
            time.sleep(600)
        case "stopped in its answer":
            for descriptor in range(3, 30):  # one of them is the pipe to the parent
                with contextlib.suppress(OSError):
                    os.write(descriptor, b"\0\0")
            signal.raise_signal(signal.SIGSTOP)
        case "memory":
            np.ones(2**31)
        case "segfault":
            signal.raise_signal(signal.SIGSEGV)
        case "out of memory killer":
            signal.raise_signal(signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "recursion":
            json.loads("[" * 100_000)
        case "system exit":
            raise SystemExit(4)
        case "rejection":
            raise GeometryRejected("a gap", where="slice 3", expected="none")
    return name


def ends(names: Sequence[str]) -> Iterator[str]:
    yield from map(end, names)


def noisy(text: str) -> str:
    os.write(1, b"a library that prints\n")
    return text


def surroundings() -> tuple[str, str]:
    return os.getcwd(), os.environ.get("MED_TRANSFER_NOTE", "")  # noqa: PTH109


def loaded(modules: Sequence[str]) -> list[bool]:
    return [name in sys.modules for name in modules]
