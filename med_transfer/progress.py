"""Progress and remarks of long jobs, independent of where they are shown (a terminal, a log file, nowhere)."""

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
    """Callback with the stage's name, steps done, total steps (0 if unknown) and a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report progress; ``done`` starts at 0 in each stage."""
        ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Ignore progress."""


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # a step may be minutes


def kind_of(stage: str) -> str:
    """A stage's name without numbers, which is the same for each fold, repeat or trial of a job."""
    return re.sub(r"(, repeat)? \d+( of \d+)?", "", stage)


class _Bars:
    """A bar per stage, on stderr or in a notebook; a stage replaces the bar of the one before if of the same kind."""

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
        """End the bar, and leave it on the screen or remove it."""
        if self._bar is not None:
            self._bar.leave = leave
            self._bar.close()
            self._bar = None


def _bar(stage: str, total: int) -> tqdm:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm warns in a notebook without ipywidgets; text bars will do
        from tqdm.auto import tqdm

        return tqdm(desc=stage, total=total or None, file=sys.stderr, dynamic_ncols=True, bar_format=_BAR)


def _is_watched() -> bool:
    """Whether stderr is a terminal, or this is a notebook kernel; False for a log, a pipe or a server."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ()) or (sys.stderr is not None and sys.stderr.isatty())


@contextmanager
def bars_unless(progress: Progress | None) -> Iterator[Progress]:
    """Yield the given callback; if None, progress bars in a terminal or notebook, and silence elsewhere."""
    bars = _Bars() if progress is None and _is_watched() else None
    try:
        yield bars or progress or silent
    finally:
        if bars is not None:
            bars.close()


def named(progress: Progress, name: str) -> Progress:
    """A callback that reports ``name`` in place of the stage; ``{stage}`` in it stands for the original name."""

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        progress(name.format(stage=stage), done, total, note)

    return tell


class Tally:
    """Reports progress of a job over many scans: scans per minute, and counts of outcomes.

    Args:
        progress: the callback.
        stage: name of the stage.
        total: number of scans.
        outcomes: possible outcomes of a scan.
    """

    def __init__(self, progress: Progress, stage: str, total: int, outcomes: Sequence[str]) -> None:
        self._progress, self._stage, self._total = progress, stage, total
        self._counts = dict.fromkeys(outcomes, 0)
        self._n_new = self._n_before = self._n_told = 0
        self._started = time.monotonic()
        progress(stage, 0, total)  # remarks before the first scan is done belong to this stage

    def skip(self) -> None:
        """Count a scan that an earlier run has done; it is reported with the next new one and not part of the rate."""
        self._n_before += 1

    def add(self, *outcomes: str) -> None:
        """Count and report one more scan and its outcomes."""
        self._n_new += 1
        for outcome in outcomes:
            self._counts[outcome] += 1
        self._tell()

    def end(self) -> None:
        """Report skipped scans that have not been reported yet."""
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
    """Warn of one scan of many: a log file gets each warning, a terminal one line with a count for each ``kind``."""
    log.warning(template, *values, extra={"kind": kind})


def only_in_log(log: logging.Logger, template: str, *values: object) -> None:
    """Log to the log file only, for what a terminal shows in another way, such as epochs by a bar."""
    log.info(template, *values, extra={"only_in_log": True})


class _PlainFormatter(logging.Formatter):
    """Escapes terminal control characters, since a log may be read on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _LogFile(logging.FileHandler):
    """Stops the job if the disk is full; logging alone would print a traceback for each line and go on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Raise OutputError if the file cannot be written."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise output_error(Path(self.baseFilename), error) from error
        super().handleError(record)

    def close(self) -> None:
        """Close the file; write errors are ignored, as they have been raised before."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(path: Path, *, delay: bool = False) -> Iterator[None]:
    """Log the messages of med_transfer, at least from level INFO, also to a file while the block runs.

    Args:
        path: the file, appended to if it exists; parent folders are created.
        delay: create the file only with the first message.

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
