"""Interruption of a search: by its time limit, or by Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from med_transfer.progress import Progress


class OutOfTime(Exception):
    """The time limit is reached; what was trained is on disk."""


class Deadline:
    """A limit of ``minutes`` from now (None: no limit), and a memory of Ctrl-C."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.started, self.interrupted = minutes, time.monotonic(), False

    def check(self) -> None:
        """Stop if it is time to. Raises OutOfTime, KeyboardInterrupt."""
        if self.interrupted:
            raise KeyboardInterrupt
        if self.minutes is not None and time.monotonic() - self.started >= 60 * self.minutes:
            raise OutOfTime

    def checked(self, progress: Progress) -> Progress:
        """The same progress, with a check after every step but the last, which raises as :meth:`check`.

        There is no check before the first step: each call of a search advances by at least one step.
        """

        def tell(stage: str, done: int, total: int, note: str = "") -> None:
            progress(stage, done, total, note)
            if 0 < done < total:
                self.check()

        return tell

    @contextmanager
    def recording_interrupts(self) -> Iterator[None]:
        """Within the context, Ctrl-C raises KeyboardInterrupt as usual, and again at the next :meth:`check`.

        The second one is needed because Python drops an exception that a signal handler raises inside a destructor, and
        many destructors run between trials.
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
