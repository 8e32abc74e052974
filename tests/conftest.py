"""A small cohort and finished runs on it, made once per session, and the command line as a function."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from _pytest.faulthandler import fault_handler_stderr_fd_key
from command_line import SMALL_SCANS, TINY, Command, FinishedRun, neutral_names, run_command, settings
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from med_transfer.cohorts import hashed_names
from med_transfer.inference import folder as folder_of_scans
from med_transfer.phantoms import PhantomConfig, write_cohort
from med_transfer.phantoms.nifti_file import write_nifti
from med_transfer.scans import geometry, read_scan

# The same examples on every machine and no time limit that a busy one misses: failures are reproducible.
# `pytest --hypothesis-profile default` looks for new ones.
hypothesis_settings.register_profile(
    "reproducible", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("reproducible")


# To check international addresses, which nothing here does, jsonschema builds their grammar when MONAI, Jupyter or
# schemathesis loads it: two seconds in every process.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

# A shell ignores Ctrl-C for what it runs in the background, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Imported objects stay alive: each garbage collection over these million objects would take a second.
gc.disable()

# Hashing the names of a small cohort takes as long as training on it: an eighth will do, and a hash states its cost.
hashed_names._LOG2_COST = 10

# Of scans so small, more are few: two processes take longer to start than to read all of a test's. Commands that run in
# a process of their own start them as ever, and so does a test with the fixture ``reading_processes``.
FEW, folder_of_scans._FEW = folder_of_scans._FEW, 30

# These start first, longest on top: one that started last would keep one worker busy after the others are done.
LONG_FILES = (
    "test_notebooks.py",
    "runtimes/test_cluster.py",
    "journeys/test_documentation.py",
    "journeys/test_commands.py",
    "finetuning/test_fold_pretraining.py",
    "pretraining/test_methods.py",
    "runtimes/test_export.py",
    "pretraining/test_side_by_side.py",
    "journeys/test_plan_command.py",
    "finetuning/test_unlabelled.py",
    "finetuning/test_resume.py",
    "journeys/test_pretrain.py",
    "hospital/test_node.py",
    "hospital/review/test_from_modality_to_screen.py",
    "hospital/review/test_strange_requests.py",
    "journeys/test_instances.py",
    "scans/test_fuzz.py",
    "inference/test_workers.py",
    "hospital/test_operation.py",
    "inference/test_guard.py",
    "test_contributing.py",
    "backbones/test_planted_lesion.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests, last = Path(__file__).parent, len(LONG_FILES)
    place = {tests / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path, last))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="of every random number that a test does not seed itself")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """A thread or process that a test left behind must not keep the tests from ending: the stacks, and failure."""
    faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)


@pytest.fixture(autouse=True)
def _ctrl_c_as_it_was() -> Iterator[None]:
    """Whoever changes what Ctrl-C does gives it back: else a later test of it ends the whole process of tests."""
    yield
    left = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert left is signal.default_int_handler, f"SIGINT is left to {left}"


def pytest_configure(config: pytest.Config) -> None:
    providers = sys.modules.get("hypothesis.internal.conjecture.providers")
    if not config.getoption("--hypothesis-profile", None) and hasattr(providers, "_get_local_constants"):
        # Constants of the modules that are loaded by now: other examples after other tests, and in a whole run most of
        # the time to draw them.
        providers._get_local_constants = lambda: providers._local_constants  # none
    torch.manual_seed(config.getoption("--seed"))  # of devices that begin later, too


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> None:
    _seed(request.config)  # a shared fixture does not depend on which test asks first


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    _seed(item.config)
    # Lightning, when a training ends, and Ray leave crashes to the system: a later one would show no stack.
    faulthandler.disable()
    faulthandler.enable(item.config.stash[fault_handler_stderr_fd_key])


def _seed(config: pytest.Config) -> None:
    seed = config.getoption("--seed")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - for libraries that draw from it
    # torch.manual_seed() also keeps the seed, with the stack of the call, for every kind of device that has not begun:
    # that took longer than most tests.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


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


@pytest.fixture(scope="session")
def finished(cohort_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    """A finished run from scratch, two folds, that looks at the whole scan; tests continue a copy of it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run = FinishedRun(folder, run_command("finetune", cohort_csv, "-o", folder, *settings(*TINY)))
    metrics = (folder / "metrics.json").read_bytes()
    yield run
    assert (folder / "metrics.json").read_bytes() == metrics


@pytest.fixture(scope="session")
def transferred(cohort_csv: Path, finished: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A finished run from the other one's network, with its from-scratch baseline, on its table's regions."""
    folder = tmp_path_factory.mktemp("runs") / "transferred"
    own = (f"backbone.weights={finished.bundle}", "split.kind=holdout", "split.val_fraction=0.34", "training.epochs=1")
    region = ("input.region=auto", "input.spacing_mm=[2,2,2]", "explain.gallery=6")
    return FinishedRun(folder, run_command("finetune", cohort_csv, "-o", folder, *settings(*TINY, *own, *region)))


@pytest.fixture
def reading_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own read the scans of a batch, as soon as for a user."""
    monkeypatch.setattr(folder_of_scans, "_FEW", FEW)


@pytest.fixture
def own_seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a run costs is measured in seconds that this thread computes, in it alone: how busy the machine is with
    other things is no matter."""
    monkeypatch.setattr("med_transfer.finetuning.duration.time", SimpleNamespace(perf_counter=time.thread_time))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def as_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs the test without root's right to read everything, and without a child that has it."""
    monkeypatch.setenv("MED_TRANSFER_READ_IN_PROCESS", "1")
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


@pytest.fixture(scope="session")
def mask_of() -> Callable[[Path, dict[str, str], Path], Path]:
    """``mask_of(scan, row, file)`` writes the region of interest of a table's row as a mask on the scan's grid."""

    def write(scan: Path, row: dict[str, str], file: Path) -> Path:
        volume = read_scan(scan)
        x, y, z, size = (float(row[f"roi_{name}_mm"]) for name in ("x", "y", "z", "size"))
        index = np.indices(volume.voxels.shape[::-1]).reshape(3, -1).T
        far = np.abs(geometry.to_world_mm(volume.affine, index) - (x, y, z)).max(axis=1)
        voxels = (far <= size / 2).reshape(volume.voxels.shape[::-1]).transpose().astype(np.int16)
        return write_nifti(file, voxels, volume.affine)

    return write
