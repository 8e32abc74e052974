"""The command line as a function, small settings, and cohort tables as rows."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from med_transfer.cli.app import main
from med_transfer.cohorts import CohortLock, recognise
from med_transfer.cohorts.lock import LockedCase

TINY = (
    "backbone.name=resnet18-w8",  # random weights, so that these runs learn everything themselves
    "input.shape=[16,16,16]",
    "input.region=whole",
    "training.epochs=2",
    "training.epoch_scans=8",
    "training.batch_size=8",
    "split.folds=2",
    "split.test_fraction=0.34",
    "explain.gallery=0",  # half a run's time; ``transferred`` and ``judged`` have one
)
SMALL_SCANS = {"format": "mixed", "shape": (24, 64, 64), "scans_per_patient": (1, 1), "difficulty": 0.2}


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class FinishedRun:
    """A run folder, and what the command that made it said."""

    folder: Path
    outcome: Outcome

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


Command = Callable[..., Outcome]


def wait_until_begun(begun: Callable[[], bool], runs: Callable[[], bool]) -> None:
    """Fails when the process has ended before, or after four minutes."""
    deadline = time.monotonic() + 240
    while not begun():
        assert runs(), "it has ended"
        assert time.monotonic() < deadline, "it has not begun"
        time.sleep(0.05)


def stopped(words: Iterable[object], begun: Callable[[], bool], number: signal.Signals, said: Path) -> Outcome:
    """``med-transfer WORDS`` in a fork of this process, which has imported everything, sent a signal once it has begun.

    Args:
        said: folder for what it says.
    """
    process = multiprocessing.get_context("fork").Process(target=_in_fork, args=(list(words), said))
    process.start()
    try:
        wait_until_begun(begun, process.is_alive)
        os.kill(process.pid or 0, number)
        process.join(240)
        assert process.exitcode is not None, "it has not ended"
        return Outcome(process.exitcode, (said / "out").read_text(), (said / "err").read_text())
    finally:
        process.kill()


def _in_fork(words: list[object], said: Path) -> None:
    """With signals as the system hands them out, whatever libraries that other tests load have made of them."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["med-transfer", *map(str, words)]
    with (said / "out").open("w") as sys.stdout, (said / "err").open("w") as sys.stderr, _own_logging():
        main()


def settings(*overrides: str) -> list[str]:
    """``--set`` before each."""
    return [word for override in overrides for word in ("--set", override)]


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """The root logger as in a process of its own: without pytest's handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def run_command(*words: object) -> Outcome:
    """``med-transfer WORDS`` in this process.

    From the program's defaults unless it says ``--plan``; ``predict`` shows one scan unless it says how many: pictures
    of the usual twelve take as long as all else that it does.
    """
    planning = (("finetune",), ("preview",), ("select",), ("tune",), ("labels", "budget"))
    if any(words[: len(name)] == name for name in planning) and not {"--plan", "--no-plan"} & set(words):
        words = (*words, "--no-plan")
    if words and words[0] == "predict" and not {"--pictures", "--write-sbatch", "--explain"} & set(words):
        words = (*words, "--pictures", 1)
    out, err = io.StringIO(), io.StringIO()
    argv = ["med-transfer", *map(str, words)]
    with (
        _own_logging(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", argv),
        pytest.raises(SystemExit) as stop,
    ):
        main()
    return Outcome(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def locked(run: Path, scans: Iterable[str]) -> dict[str, LockedCase]:
    """What a run's lock says of scans, by their names in the table: it holds no name itself."""
    cases = {case.scan_hash: case for case in CohortLock.read(run / "cohort.lock.json").cases}
    return {scan: cases[hashed] for scan, hashed in recognise(scans, cases).items()}


def neutral_names(table: Path) -> Path:
    """Rename the scans of a table, so that a path in a message cannot give a patient away."""
    rows = read_rows(table)
    for number, row in enumerate(rows, start=1):
        path = table.parent / row["scan"]
        named = path.with_name(f"case-{number:02d}" + "".join(path.suffixes))
        path.rename(named)
        row["scan"] = named.relative_to(table.parent).as_posix()
    return write_rows(table, rows)


def read_rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(table: Path, rows: list[dict[str, str]]) -> Path:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return table
