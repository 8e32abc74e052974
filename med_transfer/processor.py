"""The program's use of the machine: number of cores, threads, and memory kept by the process."""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import math
import os
import platform
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")  # of this container
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def cores() -> int:
    """Number of cores that this process may use, by its affinity and its container's CPU quota, rounded up.

    Source: Linux, control groups, CPU bandwidth (``cpu.max``; version 1: ``cpu.cfs_quota_us``).
    """
    by_affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(by_affinity, _quota() or by_affinity)


def _quota() -> int | None:
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):  # another system, or no quota ("max")
            microseconds, period = map(int, " ".join((_CONTROL_GROUP / name).read_text() for name in files).split())
            return max(1, math.ceil(microseconds / period)) if microseconds > 0 else None
    return None


def memory_bytes() -> int | None:
    """Main memory that this process may use: that of the machine, or its container's limit; None if it is unknown.

    Source: Linux, control groups, ``memory.max`` (version 1: ``memory.limit_in_bytes``).
    """
    known = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # another system, or no limit ("max")
            known.append(int((_CONTROL_GROUP / name).read_text()))
    return min(known, default=None)


def settle_threads() -> None:
    """Limit OpenMP to :func:`cores` threads in a container, and shorten its busy-waiting. Call it before loading torch.

    OpenMP counts the cores of the machine: in a container that may use two of 64, it starts 64 threads. It also waits
    for other threads by spinning for a millisecond, which makes a small network up to ten times slower on shared cores
    (docs/benchmarks.md); here it spins for microseconds. OMP_NUM_THREADS, OMP_WAIT_POLICY and GOMP_SPINCOUNT are
    respected if set.
    """
    if _quota():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def name_unknown_user() -> None:
    """Set LOGNAME if the system has no name for this process's user. Call it before loading MONAI.

    MONAI and parts of PyTorch ask for the name on import and fail without one; a container may run under any number.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # OSError from Python 3.13 on; ImportError on Windows
        os.environ["LOGNAME"] = f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"


def keep_freed_memory() -> bool:
    """Keep glibc from returning freed memory to the system, which shortens an encoder's step on a CPU by a quarter.

    Otherwise feature maps of a few megabytes are mapped and unmapped at each step, and the system clears every page
    again. The setting applies to the whole process, which then keeps its peak memory until it ends; results do not
    change.

    Returns:
        Whether it was set; False without glibc (macOS, Windows, musl), where nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return all(mallopt(parameter, value) for parameter, value in settings.items())
