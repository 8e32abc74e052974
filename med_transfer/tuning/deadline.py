"""What stops a search from outside: the end of its time, or Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from med_transfer.progress import Progress


class OutOfTime(Exception):
    """The time is over; what was trained is on disk."""


class Deadline:
    """``minutes`` from now (None: never), or an interrupt."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.started, self.interrupted = minutes, time.monotonic(), False

    def check(self) -> None:
        """Raises OutOfTime, KeyboardInterrupt."""
        if self.interrupted:
            raise KeyboardInterrupt
        if self.minutes is not None and time.monotonic() - self.started >= 60 * self.minutes:
            raise OutOfTime

    def checked(self, progress: Progress) -> Progress:
        """The same progress, with a check after every step but the last. May raise as :meth:`check`.

        Not before the first one: each call of a search goes on by a step, however little its time.
        """

        def tell(stage: str, done: int, total: int, note: str = "") -> None:
            progress(stage, done, total, note)
            if 0 < done < total:
                self.check()

        return tell

    @contextmanager
    def noting_interrupts(self) -> Iterator[None]:
        """Ctrl-C raises KeyboardInterrupt as ever; one that was lost on its way is raised again at the next check.

        Python drops an exception that a signal raises inside a destructor, and between trials many of those run.
        """
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            before(number, frame)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
