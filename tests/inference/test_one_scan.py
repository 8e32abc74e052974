"""From a scan file to its row in predictions.csv: docs/architecture.md lists every file of ours on the way."""

import re
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

import med_transfer
from med_transfer.backbones import load_backbone
from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance, save_bundle
from med_transfer.inference import Predictor
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.preprocessing import PreprocessingConfig

PACKAGE = Path(med_transfer.__file__).parent
OPEN_TO_ALL = {"errors.py", "atomic.py", "progress.py"}  # change no scan
MOST_FILES = 30  # as few as a reader can follow; lower it when a file goes
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.fixture
def predictor(tmp_path):
    record = BundleRecord(
        classes=("benign", "malignant"),
        preprocessing=PreprocessingConfig(shape=(16, 16, 16), spacing_mm=(2, 1, 1), region="whole"),
        backbone=BackboneRecord(name="resnet18-w32", pooled_stages=(-1,), licence="Apache-2.0", source="none"),
        n_members=1,
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=("a",), content_hashes=("b",)),
    )
    network = Ensemble([Classifier(load_backbone("resnet18-w32").encoder, 2)]).eval()
    return Predictor(save_bundle(tmp_path / "bundle", record, network, "# card\n"), "cpu")


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


def test_the_page_lists_every_file_between_a_nifti_file_and_its_row(predictor, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).normal(0, 300, (40, 40, 24)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), scan)
    called = files_called(lambda: predictor.predict_folder(scan, tmp_path / "out"))
    assert (tmp_path / "out" / "predictions.csv").read_text().count(",ok,") == 1
    section = ARCHITECTURE.read_text().partition("## One scan, file by file\n")[2].partition("\n## ")[0]
    listed = re.findall(r"`(\S+\.py)`", section)
    assert sorted(called) == sorted(listed)
    assert len(called) <= MOST_FILES
    assert f": {len(called)} files." in section
