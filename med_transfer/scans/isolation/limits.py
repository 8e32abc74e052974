"""Limits on time and memory for reading a scan, set by environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass

from med_transfer.errors import UsageError

SECONDS, GIB = "MED_TRANSFER_READ_SECONDS", "MED_TRANSFER_READ_GIB"
IN_PROCESS = "MED_TRANSFER_READ_IN_PROCESS"  # if set, no child process is used, for debugging


@dataclass(frozen=True)
class ReadLimits:
    """Limits for one scan: seconds, and GiB of memory beyond what the reading process itself needs; 0 for no limit."""

    seconds: float = 300.0
    gib: float = 8.0

    @classmethod
    def from_environment(cls) -> ReadLimits:
        """Limits from ``MED_TRANSFER_READ_SECONDS`` and ``MED_TRANSFER_READ_GIB``. Raises UsageError."""
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
