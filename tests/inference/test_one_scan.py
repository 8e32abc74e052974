"""From a scan file to its row in predictions.csv: docs/architecture.md lists every file of ours on the way."""

import re
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import med_transfer
from med_transfer.backbones import load_backbone
from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance, save_bundle
from med_transfer.errors import BundleError
from med_transfer.inference import Predictor
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.preprocessing import PreprocessingConfig

PACKAGE = Path(med_transfer.__file__).parent
OPEN_TO_ALL = {"errors.py", "atomic.py", "progress.py"}  # change no scan
MOST_FILES = 30  # as few as a reader can follow; lower it when a file goes
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def bundle_of(folder: Path, broken: bool = False) -> Path:
    """Of a network with random weights; ``broken``: one of them is no number."""
    record = BundleRecord(
        classes=("benign", "malignant"),
        preprocessing=PreprocessingConfig(shape=(16, 16, 16), spacing_mm=(2, 1, 1), region="whole"),
        backbone=BackboneRecord(name="resnet18-w32", pooled_stages=(-1,), licence="Apache-2.0", source="none"),
        n_members=1,
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=("a",), content_hashes=("b",)),
    )
    network = Ensemble([Classifier(load_backbone("resnet18-w32").encoder, 2)]).eval()
    if broken:
        next(network.parameters()).data[0] = torch.nan
    return save_bundle(folder / "bundle", record, network, "# card\n")


@pytest.fixture
def predictor(tmp_path):
    return Predictor(bundle_of(tmp_path), "cpu")


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).normal(0, 300, (40, 40, 24)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


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
    return {path.relative_to(PACKAGE).as_posix() for path in paths if path.is_relative_to(PACKAGE)} - OPEN_TO_ALL


def test_the_page_lists_every_file_between_a_nifti_file_and_its_row(predictor, scan, tmp_path):
    called = files_called(lambda: predictor.predict_folder(scan, tmp_path / "out"))
    assert (tmp_path / "out" / "predictions.csv").read_text().count(",ok,") == 1
    section = ARCHITECTURE.read_text().partition("## One scan, file by file\n")[2].partition("\n## ")[0]
    listed = re.findall(r"`(\S+\.py)`", section)
    assert sorted(called) == sorted(listed)
    assert len(called) <= MOST_FILES
    assert f": {len(called)} files." in section


def test_a_network_that_gives_no_number_gives_no_prediction(predictor, scan, tmp_path):
    predictor.network.fold_models[0].head.weight.data[:] = torch.nan
    outcome = predictor.predict_folder(scan, tmp_path / "out")
    assert (outcome.n_ok, outcome.n_failed, outcome.exit_code) == (0, 1, 3)
    row = (tmp_path / "out" / "predictions.csv").read_text().splitlines()[1]
    assert ",failed," in row
    assert "the network's output is not finite" in row
    assert ",nan," not in row


def test_a_bundle_with_weights_that_are_no_numbers_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"member0\.encoder.* NaN or infinite; expected finite weights"):
        Predictor(bundle_of(tmp_path, broken=True), "cpu")
