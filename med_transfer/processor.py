"""What the program takes of the machine: its cores, and memory that stays with the process."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")  # the container's own
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def cores() -> int:
    """That this process may use: by its affinity, and by the quota of its container, part of a core counted as one.

    Source: Linux, control groups, CPU bandwidth (``cpu.max``; version 1: ``cpu.cfs_quota_us``).
    """
    by_affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(by_affinity, _quota() or by_affinity)


def _quota() -> int | None:
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):  # another system, or "max": none
            microseconds, period = map(int, " ".join((_CONTROL_GROUP / name).read_text() for name in files).split())
            return max(1, math.ceil(microseconds / period)) if microseconds > 0 else None
    return None


def settle_threads() -> None:
    """Let a network's threads be no more than the :func:`cores`, and sleep when they wait; before torch is loaded.

    OpenMP counts the cores of the machine: in a container that may use two of 64, it starts 64 threads. And they wait
    for each other by spinning for a millisecond, which on cores that others want, too, makes a small network up to ten
    times as slow (docs/benchmarks.md); here they spin for microseconds. Whoever sets OMP_NUM_THREADS, OMP_WAIT_POLICY
    or GOMP_SPINCOUNT is obeyed.
    """
    if _quota():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def keep_freed_memory() -> bool:
    """Keep glibc from giving freed memory back to the system: an encoder's step on a CPU is a quarter shorter.

    Feature maps of a few megabytes are mapped and unmapped at each step, and the system clears each page again. It
    holds for the whole process and changes no number; what the process took at its peak it keeps until it ends.

    Returns:
        Whether it was done: not without glibc (macOS, Windows, musl), where nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return all(mallopt(parameter, value) for parameter, value in settings.items())
