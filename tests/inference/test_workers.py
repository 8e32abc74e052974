"""Reading processes beside the network: the same table as without them, whatever happens to one of them."""

import gzip
import os
import signal
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import read_rows
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.inference import BatchSettings, load_bundle
from med_transfer.inference.workers import AHEAD, as_completed
from med_transfer.scans.isolation import worker as scan_worker
from med_transfer.scans.isolation.limits import GIB, IN_PROCESS, SECONDS
from med_transfer.scans.isolation.scan_worker import ScanWorker

pytestmark = pytest.mark.usefixtures("reading_processes")
needs_processes = pytest.mark.skipif(os.name != "posix", reason="scans are read in processes where there are pipes")


class Squares:
    def __call__(self, job):
        return job * job

    def close(self):
        pass


def test_each_job_is_done_once_however_many_workers_there_are():
    assert sorted(as_completed([Squares(), Squares()], range(10))) == [(n, n * n) for n in range(10)]


def test_no_more_is_under_way_than_a_few_jobs_a_worker():
    taken = []
    results = as_completed([Squares(), Squares()], (taken.append(n) or n for n in range(1000)))
    for n_done in range(1, 20):
        next(results)
        assert len(taken) <= AHEAD * 2 + n_done
    results.close()
    assert len(taken) < 30


def test_what_a_worker_raises_ends_the_batch():
    class Broken(Squares):
        def __call__(self, job):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(as_completed([Broken()], range(3)))
    assert not [thread for thread in threading.enumerate() if "_work" in thread.name]


@pytest.fixture
def predictor(tmp_path):
    return load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu")


@pytest.fixture
def scans(tmp_path):
    for number in range(11):
        write_scan(tmp_path / f"scans/{number:02d}.nii.gz", number)
    (tmp_path / "scans/05.nii.gz").write_bytes(b"\x1f\x8bnothing")
    return tmp_path / "scans"


def rows_of(out: Path):
    return [{**row, "seconds": ""} for row in read_rows(out / "predictions.csv")]


@needs_processes
@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hanging"])
def test_a_worker_that_dies_or_hangs_costs_an_attempt_and_the_same_folder_again_mends_it(
    predictor, scans, tmp_path, monkeypatch, harm
):
    monkeypatch.setenv(IN_PROCESS, "1")
    predictor.predict_folder(scans, tmp_path / "undisturbed")  # in this process alone
    monkeypatch.delenv(IN_PROCESS)
    monkeypatch.setenv(SECONDS, "10")
    running, started, harmed = ScanWorker._running, [], []

    def noted(self, **options):
        child = running(self, **options)
        started.append(child.process.pid)  # one that is stopped while it starts has a minute more
        return child

    monkeypatch.setattr(ScanWorker, "_running", noted)

    def disturb(stage, done, total, note=""):
        if done == 2:
            harmed.append(started[-1])
            os.kill(harmed[0], harm)

    settings = BatchSettings(workers=2)
    outcome = predictor.predict_folder(scans, tmp_path / "out", disturb, settings)
    assert harmed
    assert (outcome.n_ok, outcome.n_failed) in ((10, 1), (9, 2))  # it may have had nothing to do just then
    monkeypatch.setenv(SECONDS, "100")
    predictor.predict_folder(scans, tmp_path / "out", settings=settings)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "undisturbed")


@needs_processes
def test_a_scan_that_needs_too_much_memory_costs_its_row_alone_and_a_higher_limit_mends_it(
    predictor, tmp_path, monkeypatch, request
):
    scans = write_scan(tmp_path / "few/0.nii.gz").parent
    bloated = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
    bloated.header.set_data_shape((512, 512, 400))  # 200 MB of zeros, in a file of 1 MB
    with gzip.open(scans / "1.nii.gz", "wb", compresslevel=1) as file:
        file.write(bloated.header.binaryblock + bytes(4))
        for _ in range(400):
            file.write(bytes(512 * 512 * 2))
    monkeypatch.setenv(GIB, "0.15")
    own = scan_worker()
    assert own
    own.close()  # its limits are those of when it started
    request.addfinalizer(own.close)
    outcome = predictor.predict_folder(scans, tmp_path / "out")
    assert (outcome.n_ok, outcome.n_failed) == (1, 1)
    assert "needs more than 0.15 GiB of memory" in rows_of(tmp_path / "out")[1]["reason"]
    monkeypatch.setenv(IN_PROCESS, "1")  # without limits
    assert predictor.predict_folder(scans, tmp_path / "out").n_ok == 2
    predictor.predict_folder(scans, tmp_path / "undisturbed")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "undisturbed")


@needs_processes
def test_scans_that_change_or_go_meanwhile_have_a_row_and_the_next_run_has_what_is_there(
    predictor, scans, tmp_path, monkeypatch
):
    def disturb(stage, done, total, note=""):
        if (done, total) == (1, 11):
            write_scan(scans / "07.nii.gz", 99)
            for name in ("06", "10"):
                (scans / f"{name}.nii.gz").unlink()

    outcome = predictor.predict_folder(scans, tmp_path / "out", disturb, BatchSettings(workers=2))
    assert (outcome.n_ok, outcome.n_failed) == (8, 3)
    assert [row["scan"] for row in rows_of(tmp_path / "out")] == [f"{number:02d}.nii.gz" for number in range(11)]
    monkeypatch.setenv(IN_PROCESS, "1")
    predictor.predict_folder(scans, tmp_path / "out")
    predictor.predict_folder(scans, tmp_path / "undisturbed")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "undisturbed")
    assert len(rows_of(tmp_path / "out")) == 9
