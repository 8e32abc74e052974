"""A process that is killed in the middle of its work."""

from __future__ import annotations

import itertools
import os
import signal
import warnings
from collections.abc import Callable


def killed_at(moment: int, job: Callable[[], object]) -> bool:
    """Whether a process that does the job got as far as its ``moment``-th fsync, and was killed there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads, which do not matter here
        child = os.fork()
    if child == 0:
        try:
            count, fsync = itertools.count(1), os.fsync
            os.environ["MED_TRANSFER_READ_IN_PROCESS"] = "1"
            os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL) if next(count) == moment else fsync(file)
            job()
            os._exit(0)
        finally:
            os._exit(1)  # on any error: a second pytest on the first one's pipes would be worse
    ended = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(ended) or os.waitstatus_to_exitcode(ended) == 0
    return os.WIFSIGNALED(ended)
