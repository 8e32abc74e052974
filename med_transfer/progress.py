"""How a long job tells how far it is and what it remarks, without knowing who listens (a terminal, a log, nobody)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from med_transfer.atomic import output_error
from med_transfer.errors import printable


class Progress(Protocol):
    """Called with the stage's name, steps done, steps in all and a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Told of one more step; ``done`` and ``total`` count from 0 in each stage."""
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tells nobody."""


def named(progress: Progress, name: str) -> Progress:
    """The same listener, told ``name`` instead of the stage; ``{stage}`` in it stands for the job's own word."""

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        progress(name.format(stage=stage), done, total, note)

    return tell


class Tally:
    """Tells of a job over many scans: how many a minute, and what became of them.

    Args:
        progress: who is told.
        stage: of the job.
        total: scans.
        outcomes: what can become of one.
    """

    def __init__(self, progress: Progress, stage: str, total: int, outcomes: Sequence[str]) -> None:
        self._progress, self._stage, self._total = progress, stage, total
        self._counts = dict.fromkeys(outcomes, 0)
        self._n_new = self._n_before = self._n_told = 0
        self._started = time.monotonic()

    def skip(self) -> None:
        """One that was done before; told with the next new one, so that nobody takes it for speed."""
        self._n_before += 1

    def add(self, *outcomes: str) -> None:
        """One more, and what became of it."""
        self._n_new += 1
        for outcome in outcomes:
            self._counts[outcome] += 1
        self._tell()

    def end(self) -> None:
        """Tell of those done before of which nobody was told yet."""
        if self._n_told < self._n_new + self._n_before:
            self._tell()

    def _tell(self) -> None:
        self._n_told = self._n_new + self._n_before
        self._progress(self._stage, self._n_told, self._total, self._note)

    @property
    def _note(self) -> str:
        counts = [f"{n} {outcome}" for outcome, n in self._counts.items()]
        before = [f"{self._n_before} done before"] if self._n_before else []
        minutes = max(time.monotonic() - self._started, 1e-3) / 60
        rate = [f"{self._n_new / minutes:,.1f} scans/min"]
        return ", ".join((rate + counts if self._n_new else []) + before)


def remark(log: logging.Logger, template: str, *values: object, kind: str) -> None:
    """Warn of one scan of many: a log has each, a terminal one line, with the count, for those of one ``kind``."""
    log.warning(template, *values, extra={"kind": kind})


def only_in_log(log: logging.Logger, template: str, *values: object) -> None:
    """Log what a terminal shows in another way, as it does each epoch by a bar: for the log file alone."""
    log.info(template, *values, extra={"only_in_log": True})


class _PlainFormatter(logging.Formatter):
    """A log is read on a terminal, too: what commands one is written out."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def log_file(path: Path, *, delay: bool = False) -> Iterator[None]:
    """Everything that med_transfer logs meanwhile also goes into a file, made with the first line if ``delay``.

    Raises:
        OutputError: the file cannot be written.
    """
    package = logging.getLogger("med_transfer")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", delay=delay)
    except OSError as error:
        raise output_error(path, error) from error
    handler.setFormatter(_PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    before = package.level
    package.setLevel(min(before or logging.INFO, logging.INFO))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()
        package.setLevel(before)
