"""A small cohort and finished runs on it, made once a session, and the command line as a function."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from med_transfer.cli.app import main
from med_transfer.phantoms import PhantomConfig, write_cohort

TINY = (
    "input.shape=[16,16,16]",
    "training.epochs=2",
    "training.epoch_scans=16",
    "training.batch_size=8",
    "split.folds=2",
    "split.test_fraction=0.34",
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
    """``med-transfer WORDS`` in this process."""
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


@pytest.fixture(scope="session")
def command() -> Command:
    """``command("predict", bundle, scans)`` is ``med-transfer predict BUNDLE SCANS`` in this process."""
    return run_command


@pytest.fixture(scope="session")
def cohort_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table of 18 patients of three classes, DICOM and NIfTI. No file's name tells the patient."""
    folder = tmp_path_factory.mktemp("cohort")
    return neutral_names(write_cohort(folder, PhantomConfig(patients_per_class=6, seed=5, **SMALL_SCANS)))


@pytest.fixture(scope="session")
def unseen_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table of 6 other patients of the same classes."""
    folder = tmp_path_factory.mktemp("unseen")
    table = write_cohort(folder, PhantomConfig(patients_per_class=2, seed=6, **SMALL_SCANS))
    renamed = table.read_text().replace("texture-00", "other-00")  # phantoms count their patients from 0 again
    table.write_text(renamed)
    for path in (folder / "scans").iterdir():
        path.rename(path.with_name(path.name.replace("texture-00", "other-00")))
    return neutral_names(table)


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


@pytest.fixture(scope="session")
def finished(cohort_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A finished run from scratch, two folds, that looks at the whole scan."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return FinishedRun(folder, run_command("finetune", cohort_csv, "-o", folder, *settings(*TINY)))


@pytest.fixture(scope="session")
def transferred(cohort_csv: Path, finished: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A finished run that starts from the other one's network, with its scratch twin, on regions of interest."""
    folder = tmp_path_factory.mktemp("runs") / "transferred"
    own = (f"backbone.weights={finished.bundle}", "split.kind=holdout", "split.val_fraction=0.34", "training.epochs=1")
    region = ("input.region=roi", "input.spacing_mm=[2,2,2]")
    return FinishedRun(folder, run_command("finetune", cohort_csv, "-o", folder, *settings(*TINY, *own, *region)))
