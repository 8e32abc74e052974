"""One run at a time in a folder: the error names who is at work, and a dead run's leftovers do not block a new one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from med_transfer.atomic import sole_writer as module
from med_transfer.atomic import write_text
from med_transfer.atomic.sole_writer import LOCK_FILE, sole_writer, sole_writer_of
from med_transfer.cohorts.overwriting import require_replaceable
from med_transfer.errors import FolderInUse, OutputError, UsageError

CLOSED = "cannot be written: Permission denied. Choose another folder, or allow this user to write here."
HOLD = """
import sys, time
from pathlib import Path
from med_transfer.atomic import atomic_path
from med_transfer.atomic.sole_writer import sole_writer
with sole_writer(Path(sys.argv[1])), atomic_path(Path(sys.argv[1]) / "deep" / "er.bin") as half_written:
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_run(tmp_path):
    """Another process at work in the folder."""
    path = os.pathsep.join(entry or "." for entry in sys.path)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_run_is_told_who_is_at_work(tmp_path, other_run):
    message = rf"out: another run is active here: process {other_run.pid} on .*, since 20.*Wait for it, or choose"
    with pytest.raises(FolderInUse, match=message), sole_writer(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / LOCK_FILE).exists()
    other_run.send_signal(signal.SIGKILL)
    other_run.wait()
    (left,) = (tmp_path / "out" / "deep").iterdir()
    with sole_writer(tmp_path / "out"):  # its file still exists, the process does not
        assert json.loads((tmp_path / "out" / LOCK_FILE).read_text())["process"] == os.getpid()
        assert not left.exists()
    assert not (tmp_path / "out" / LOCK_FILE).exists()


def test_also_within_one_process(tmp_path):
    with sole_writer(tmp_path), pytest.raises(FolderInUse, match=f"process {os.getpid()} on"), sole_writer(tmp_path):
        pass
    with sole_writer(tmp_path / "a"), sole_writer(tmp_path / "b"):
        pass


def test_a_table_is_held_without_the_folder_that_it_lies_in(tmp_path):
    message = (
        r"new/a\.csv: another run is active here: process \d+ on .*one run at a time for a table.*remove \.a\.csv\.in-"
    )
    table, other = tmp_path / "new/a.csv", tmp_path / "new/b.csv"
    with (
        sole_writer_of(table),
        sole_writer_of(other),
        pytest.raises(FolderInUse, match=message),
        sole_writer_of(table),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_an_owner_on_another_machine_lives_as_long_as_its_file_changes(tmp_path):
    owner = {"machine": "node7", "process": 12, "since": "2026-01-01T00:00:00+00:00"}
    lock = tmp_path / LOCK_FILE
    lock.write_text(json.dumps(owner))
    with pytest.raises(FolderInUse, match=r"process 12 on node7.*remove \.in-use\.json"), sole_writer(tmp_path):
        pass
    assert json.loads(lock.read_text()) == owner
    then = time.time() - module._DEAD_AFTER_SECONDS - 1
    os.utime(lock, (then, then))
    with sole_writer(tmp_path):
        pass
    assert not lock.exists()


def test_the_file_changes_while_the_owner_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.01)
    with sole_writer(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (1, 1))
        deadline = time.monotonic() + 240
        while (tmp_path / LOCK_FILE).stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / LOCK_FILE).stat().st_mtime > 1


@pytest.mark.parametrize("damaged", ["half a li", "5", "null", "[1]", "\0"])
def test_a_damaged_file_is_no_hindrance_and_an_error_frees_the_folder(tmp_path, damaged):
    (tmp_path / LOCK_FILE).write_text(damaged)
    then = time.time() - 3600
    os.utime(tmp_path / LOCK_FILE, (then, then))
    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"/file: cannot be written"), sole_writer(tmp_path / "file"):
        pass


@pytest.mark.usefixtures("as_nobody")
def test_a_folder_that_is_closed():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are open to everybody
        shut, inside = Path(name) / "shut", Path(name) / "shut/run"
        shut.mkdir(mode=0)
        for folder in (shut, inside):
            with pytest.raises(OutputError) as refused, sole_writer(folder, "a run"):
                pass
            assert str(refused.value) == f"{folder}: {CLOSED}"
        with pytest.raises(OutputError) as refused, sole_writer_of(shut / "cohort.csv"):
            pass
        assert str(refused.value) == f"{shut}: {CLOSED}"
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            write_text(inside, "")
        with pytest.raises(OutputError, match="cannot be written: Permission denied"):
            require_replaceable(shut / "cohort.csv", ("scan",))


def test_the_commands_refuse_a_folder_in_use(tmp_path, other_run, command, cohort_csv):
    outcome = command("finetune", cohort_csv, "-o", tmp_path / "out", "--set", "backbone.name=resnet18-w8")
    assert outcome.code == 2
    assert "another run is active here" in outcome.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {LOCK_FILE, "deep"}


@pytest.mark.parametrize(
    ("files", "held"),
    [
        (("tuning.yaml", "cohort.lock.json"), "a search"),
        (("source.lock.json", "config.yaml"), "a pretraining"),
        (("batch.json", "predictions.csv"), "a batch of predictions"),
        (("selection.json",), "a ranking of backbones"),
        (("budget.json",), "a label budget"),
        (("cohort.lock.json", "metrics.json"), "a run"),
        (("metrics.json",), "an evaluation"),
    ],
)
def test_a_job_stays_out_of_the_folder_of_another(tmp_path, files, held):
    for name in files:
        (tmp_path / name).touch()
    other = "a search" if held == "a run" else "a run"
    message = (
        f"{tmp_path.name}: the folder holds {held}; expected a new folder, or one that holds {other}. Choose another -o"
    )
    with pytest.raises(UsageError, match=message), sole_writer(tmp_path, other):
        pass
    with sole_writer(tmp_path, held):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_bundle_is_no_place_for_results(tmp_path):
    (tmp_path / "med_transfer.json").touch()
    with (
        pytest.raises(UsageError, match=f"{tmp_path.name}: the folder holds a bundle"),
        sole_writer(tmp_path, "a batch of predictions"),
    ):
        pass


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("mine")
    message = r"cannot be written: out is a file; expected a folder of this name, or none\. Choose another folder"
    for folder in (tmp_path / "out", tmp_path / "out/within"):
        with pytest.raises(OutputError, match=rf"^{folder}: {message}"), sole_writer(folder):
            pass
    assert (tmp_path / "out").read_text() == "mine"
