"""From a scan file to its row in predictions.csv: docs/architecture.md lists all our files on the path."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundle import tiny_bundle, write_scan

import med_transfer
from med_transfer.errors import BundleError, UsageError
from med_transfer.inference import Predictor

PACKAGE = Path(med_transfer.__file__).parent
CHANGE_NO_SCAN = ("errors/", "atomic/", "progress.py", "scans/isolation/")
BOOKKEEPING = {  # of resuming and merging
    *("predictions/origins.py", "scans/stamps.py", "scans/dicom/elements.py", "cohorts/array_cache.py"),
    "cohorts/kept_scans.py",
    *("bundle/files.py", "inference/shards.py", "inference/copies.py"),
}
GUARDS = {"scans/search/files.py", "cohorts/input_facts.py", "bundle/envelope.py"}
MAX_FILES = 33  # as few as a reader can follow; lower it when a file is removed
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.fixture
def predictor(tmp_path):
    return Predictor(tiny_bundle(tmp_path / "bundle"), "cpu")


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scan.nii.gz")


def files_called(job) -> set[str]:
    """Files of ours of which a function runs, relative to the package, but for those that every room may call."""
    paths = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_name != "<module>":
            paths.add(Path(frame.f_code.co_filename))

    sys.setprofile(note)
    try:
        job()
    finally:
        sys.setprofile(None)
    ours = {path.relative_to(PACKAGE).as_posix() for path in paths if path.is_relative_to(PACKAGE)}
    return {path for path in ours if not path.startswith(CHANGE_NO_SCAN)} - BOOKKEEPING - GUARDS


def test_the_page_lists_every_file_between_a_nifti_file_and_its_row(predictor, scan, tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_READ_IN_PROCESS", "1")
    called = files_called(lambda: predictor.predict_folder(scan, tmp_path / "out"))
    assert (tmp_path / "out" / "predictions.csv").read_text().count(",ok,") == 1
    section = ARCHITECTURE.read_text().partition("## One scan, file by file\n")[2].partition("\n## ")[0]
    listed = re.findall(r"`(\S+\.py)`", section)
    assert sorted(called) == sorted(listed)
    assert len(called) <= MAX_FILES
    assert f": {len(called)} files." in section


def test_an_array_has_no_spacing_and_is_told_so(predictor):
    with pytest.raises(
        UsageError, match=r"scan: found an object of type ndarray; expected a path.*Voxels alone have no"
    ):
        predictor.predict(np.zeros((8, 16, 16), np.int16))


def test_a_network_that_gives_no_number_gives_no_prediction(predictor, scan, tmp_path):
    predictor.network.fold_models[0].head.weight.data[:] = torch.nan
    outcome = predictor.predict_folder(scan, tmp_path / "out")
    assert (outcome.n_ok, outcome.n_failed, outcome.exit_code) == (0, 1, 3)
    row = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1]
    assert ",failed," in row
    assert "the network's output is not finite" in row
    assert ",nan," not in row


def test_a_bundle_with_weights_that_are_no_numbers_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"model\.safetensors: member0\.encoder.* NaN or infinite; expected finite"):
        Predictor(tiny_bundle(tmp_path / "bundle", broken=True), "cpu")
