"""Progress and results on a terminal: bars with time left on stderr, results on stdout; nothing commands it."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from med_transfer.errors import printable
from med_transfer.progress import Progress, kind_of, silent

_STDERR = 2  # the number of its descriptor


@contextmanager
def plain_streams() -> Iterator[None]:
    """Meanwhile stdout and stderr write out every character that would command a terminal, whoever writes it.

    A stream that is closed, or whose reader has ended (``| head``), takes everything and shows nothing: a job is done
    for the files that it writes.
    """
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        out, err = (cast(TextIO, _PlainStream(stream or nowhere)) for stream in (sys.stdout, sys.stderr))
        with redirect_stdout(out), redirect_stderr(err):
            yield


def open_standard_streams() -> None:
    """Open stdin, stdout and stderr where they are closed, so that no file is opened under their numbers, which
    libraries and other processes write to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)


def discard(stream: Any) -> None:
    """Throw away what a stream still holds and all that it is given later, so that no flush at exit fails."""
    with suppress(OSError, ValueError):  # a stream without a file: of a test, or a notebook
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


class _PlainStream:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        shown = printable(text)
        try:
            return self.stream.write(shown)
        except UnicodeEncodeError as error:
            return self.stream.write(shown.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except BrokenPipeError:
            discard(self.stream)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            discard(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class TerminalHandler(logging.StreamHandler):
    """Warnings on stderr, without what is for a log only; remarks alike on single scans become one line, when told."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._alike: dict[tuple[str, str], tuple[logging.LogRecord, set[str]]] = {}
        self._log = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, or keep a remark for :meth:`tell`."""
        if getattr(record, "only_in_log", False):
            return
        kind = getattr(record, "kind", None)
        if kind is None:
            super().emit(record)
        else:
            self._log = _log_of_the_job() or self._log
            sort = (str(record.msg), re.sub(r"[-+]?\d[\d.]*", "0", kind))
            self._alike.setdefault(sort, (record, set()))[1].add(record.getMessage())

    def tell(self) -> None:
        """Show what was kept."""
        alike, self._alike = self._alike, {}
        for first, messages in alike.values():
            if len(messages) > 1:  # a scan that is read twice is remarked on twice
                each = f"; each is in {self._log}" if self._log else ""
                one = first.getMessage().removesuffix("." if each else "")
                first.msg, first.args = f"{len(messages):,} scans, the first of them: {one}{each}", ()
            super().emit(first)


def _log_of_the_job() -> str:
    handlers = logging.getLogger("med_transfer").handlers
    return next((handler.baseFilename for handler in handlers if isinstance(handler, logging.FileHandler)), "")


def tell_remarks() -> None:
    """Show what was remarked of scans since the last time."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, TerminalHandler):
            handler.tell()


_LINE_SECONDS = 30.0  # between lines of one stage where there is no terminal
_PACE_SECONDS = 600.0  # looked back for the time left: some scans take minutes


class TerminalProgress:
    """Progress as bars, one a stage, with the time left; plain lines now and then where stderr is not a terminal.

    Folds, repeats and trials have one bar in turn: dozens of finished ones would push everything else off the screen.
    """

    def __init__(self) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        console = Console(file=getattr(sys.stderr, "stream", sys.stderr))  # the bars are drawn by commands
        self._bars = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=_PACE_SECONDS,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict = {}
        self._is_plain, self._last_line = not console.is_terminal, 0.0

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Draw one more step; a new stage begins a new bar, in place of the one of its kind."""
        stage, note = printable(stage), printable(note)
        if stage not in self._tasks:
            if self._tasks:  # a stage has ended
                tell_remarks()
            self._end_stages(kind_of(stage))
            self._tasks[stage] = self._bars.add_task(stage, total=total or None, note=note)
            if not total or not done:  # whether it will be long nobody knows, or nothing is done yet
                self._last_line = time.monotonic()
        self._bars.update(self._tasks[stage], completed=done, total=total or None, note=note)
        if self._is_plain and (done >= total > 0 or time.monotonic() - self._last_line > _LINE_SECONDS):
            self._last_line = time.monotonic()
            self._write_line(self._tasks[stage])

    def _end_stages(self, kind: str) -> None:
        for stage in [*self._tasks]:
            if kind_of(stage) == kind:
                self._bars.remove_task(self._tasks.pop(stage))
            else:
                self._bars.stop_task(self._tasks[stage])

    def _write_line(self, number: int) -> None:
        task = next(task for task in self._bars.tasks if task.id == number)
        left = task.time_remaining
        text = f"{task.description} {task.completed:,.0f}" + (f" of {task.total:,.0f}" if task.total else "")
        time_left = f"{left / 60:,.0f} min left" if left and left > 90 else f"{left:.0f} s left" if left else ""
        parts = [time_left, task.fields["note"]]
        sys.stderr.write(", ".join([text, *filter(None, parts)]) + "\n")

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        tell_remarks()


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on stderr; silence with ``--quiet``."""
    if not logging.getLogger("med_transfer").isEnabledFor(logging.WARNING):
        yield silent
        return
    with TerminalProgress() as bars:
        yield bars


def say(text: str = "") -> None:
    """One line of the result on stdout, at once: a watch may say its next one in hours."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(record: object) -> None:
    """The result for a program."""
    say(json.dumps(record, indent=2, default=str))
