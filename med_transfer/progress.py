"""How a long job tells how far it is and what it remarks, without knowing who listens (a terminal, a log, nobody)."""

from __future__ import annotations

import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from med_transfer.atomic import output_error
from med_transfer.errors import printable

if TYPE_CHECKING:
    from tqdm import tqdm


class Progress(Protocol):
    """Called with the stage's name, steps done, steps in all (0 where nobody knows) and a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Told of one more step; ``done`` and ``total`` count from 0 in each stage."""
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Tells nobody."""


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # a step may be minutes


def kind_of(stage: str) -> str:
    """The same for each fold, repeat or trial of a job: the stage's name without its numbers."""
    return re.sub(r"(, repeat)? \d+( of \d+)?", "", stage)


class _Bars:
    """A bar a stage, on stderr or in a notebook; a new stage ends the one before, and one of its kind replaces it."""

    def __init__(self) -> None:
        self._stage, self._bar = "", None

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Draw one more step."""
        if self._bar is None or stage != self._stage or done < self._bar.n:
            self.close(leave=stage == self._stage or kind_of(stage) != kind_of(self._stage))
            self._stage, self._bar = stage, _bar(printable(stage), total)
        self._bar.total = total or None
        self._bar.set_postfix_str(printable(note), refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.refresh()

    def close(self, *, leave: bool = True) -> None:
        """Leave what is drawn as it is, or take it away."""
        if self._bar is not None:
            self._bar.leave = leave
            self._bar.close()
            self._bar = None


def _bar(stage: str, total: int) -> tqdm:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without ipywidgets has bars of text, and needs no advice
        from tqdm.auto import tqdm

        return tqdm(desc=stage, total=total or None, file=sys.stderr, dynamic_ncols=True, bar_format=_BAR)


def _is_watched() -> bool:
    """Whether stderr is a terminal, or this is a notebook's kernel; a log, a pipe and a server are not."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ()) or (sys.stderr is not None and sys.stderr.isatty())


@contextmanager
def bars_unless(progress: Progress | None) -> Iterator[Progress]:
    """The listener that was given. For None bars, where somebody may see them, and nobody elsewhere."""
    bars = _Bars() if progress is None and _is_watched() else None
    try:
        yield bars or progress or silent
    finally:
        if bars is not None:
            bars.close()


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
        progress(stage, 0, total)  # what is remarked before the first one is done is of this stage

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


class _LogFile(logging.FileHandler):
    """A full disk stops the job as with any other file; logging itself would print a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Raises OutputError."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise output_error(Path(self.baseFilename), error) from error
        super().handleError(record)

    def close(self) -> None:
        """Whatever could not be written has been told."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(path: Path, *, delay: bool = False) -> Iterator[None]:
    """Everything that med_transfer logs meanwhile also goes into a file, made with the first line if ``delay``.

    Raises:
        OutputError: the file cannot be written.
    """
    package = logging.getLogger("med_transfer")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8", delay=delay)
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
