"""The recipe for several phases, from the table to predictions of a bundle, as a user runs it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import TINY, locked, read_rows, settings, write_rows
from mr_like import as_nifti, enhanced

from med_transfer import load_bundle
from med_transfer.bundle import read_record
from med_transfer.errors import InputRejected
from med_transfer.phantoms import SeriesDetails, write_dicom_series
from med_transfer.scans import read_scan

RECIPE = Path(__file__).parents[2] / "configs/recipes/multi_phase.yaml"
ONE_EPOCH = (
    *TINY,
    "input.shape=[16,16,16]",
    "input.spacing_mm=[2,2,2]",
    "training.epochs=1",
    "split.kind=holdout",
    "split.val_fraction=0.34",
    "backbone.name=resnet18-w8",
)


def second_phase(scan: Path, out: Path) -> Path:
    """A later phase of a scan, of its format, its study and its place."""
    if not scan.is_dir():
        return as_nifti(scan, out.with_suffix(".nii.gz"), enhanced)
    volume = read_scan(scan)
    write_dicom_series(out, enhanced(volume.voxels), volume.affine, details=SeriesDetails("1", 99, series=7))
    for path in out.iterdir():
        _give_frame(path, volume.provenance.frame_of_reference)
    return out


def _give_frame(path: Path, uid: str) -> None:
    import pydicom

    slice_ = pydicom.dcmread(path)
    slice_.FrameOfReferenceUID = uid
    slice_.save_as(path)


def with_phases(table: Path, folder: Path) -> Path:
    """The table with absolute paths and a second phase of every scan."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(table)
    for number, row in enumerate(rows):
        row["scan"] = str(table.parent / row["scan"])
        row["scan_arterial"] = str(second_phase(Path(row["scan"]), folder / f"late-{number:02d}"))
    return write_rows(folder / "phases.csv", rows)


@pytest.fixture(scope="module")
def phases_csv(cohort_csv, tmp_path_factory):
    return with_phases(cohort_csv, tmp_path_factory.mktemp("phases"))


@pytest.fixture(scope="module")
def unseen_phases(unseen_csv, tmp_path_factory):
    return with_phases(unseen_csv, tmp_path_factory.mktemp("unseen-phases"))


@pytest.fixture(scope="module")
def run(command, phases_csv, finished, tmp_path_factory):
    """The recipe from a network that has seen one phase of the same patients: their rows are split as it was."""
    out = tmp_path_factory.mktemp("multi") / "run"
    source = (f"backbone.weights={finished.bundle}", "split.seed=0", "split.test_fraction=0.34")
    outcome = command("finetune", phases_csv, "-c", RECIPE, "-o", out, *settings(*ONE_EPOCH, *source))
    assert outcome.code == 0, outcome.err
    return out


def test_bundle_knows_its_channels(run):
    record = read_record(run / "bundle")
    assert record.preprocessing.columns == ("scan", "scan_arterial")
    image = json.loads((run / "bundle/configs/metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "scan", "1": "scan_arterial"})
    assert len(record.input_envelope.further) == 1
    card = (run / "bundle/docs/README.md").read_text()
    assert "column scan_arterial, CT, window from -1000 to 1000 HU" in card
    assert "Spacing seen in training (scan_arterial)" in card
    assert "First convolution: from 1 channel(s) of the file to 2." in (run / "run.log").read_text()


def test_lock_and_provenance_hold_both_phases(run):
    cases = json.loads((run / "cohort.lock.json").read_text())["cases"]
    assert all(len(case["channel_hashes"]) == 1 for case in cases)
    known = set(read_record(run / "bundle").trained_on.content_hashes)
    for case in cases:
        images = {case["content_hash"], *case["channel_hashes"]}
        assert images <= known or case["role"] == "test"


def test_table_of_phases_is_predicted_from_the_command_line_and_from_python(command, run, unseen_phases, tmp_path):
    outcome = command("predict", run / "bundle", unseen_phases, "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    written = {row["scan"]: row for row in read_rows(tmp_path / "predictions.csv")}
    case = read_rows(unseen_phases)[0]
    predictor = load_bundle(run / "bundle")
    both = {"scan": case["scan"], "scan_arterial": case["scan_arterial"]}
    answer = predictor.predict(both).probabilities
    for name, value in answer.items():
        assert float(written[case["scan"]][f"p_{name}"]) == pytest.approx(value, abs=1e-6)
    with pytest.raises(InputRejected, match="case-01: no scan for channel scan_arterial"):
        predictor.predict(case["scan"])
    swapped = {"scan": case["scan_arterial"], "scan_arterial": case["scan"]}
    assert predictor.predict(swapped).probabilities != answer


def test_unseen_phases_are_judged_from_the_command_line(command, run, unseen_phases, tmp_path):
    outcome = command("evaluate", run / "bundle", unseen_phases, "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["n_scans"], metrics["failed"]["n"], metrics["overlap"]["seen_scans"]) == (6, 0, 0)
    assert "scan_arterial" not in metrics["subgroups"]
    assert (tmp_path / "report.html").exists()


def test_folder_cannot_say_which_scans_belong_together(command, run, unseen_csv, tmp_path):
    outcome = command("predict", run / "bundle", unseen_csv.parent / "scans", "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "the input is made of 2 scans a case" in outcome.err
    assert "columns scan, scan_arterial" in outcome.err
    assert not (tmp_path / "out").exists()


def test_table_of_one_phase_is_refused(command, run, unseen_csv, tmp_path):
    outcome = command("predict", run / "bundle", unseen_csv, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "no scan in column scan_arterial" in outcome.err


def spoiled(unseen_phases: Path, folder: Path) -> Path:
    """One case without a second phase, one whose second phase is of another patient, and sound ones."""
    rows = read_rows(unseen_phases)
    rows[0]["scan_arterial"] = ""
    dicom = [row for row in rows[1:] if Path(row["scan"]).is_dir()]
    dicom[0]["scan_arterial"] = dicom[1]["scan_arterial"]
    return write_rows(folder / "spoiled.csv", rows)


def test_bad_cases_are_rejected_with_their_reason_and_a_killed_job_goes_on(command, run, unseen_phases, tmp_path):
    table = spoiled(unseen_phases, tmp_path)
    assert command("predict", run / "bundle", table, "-o", tmp_path / "whole").code == 1
    rows = read_rows(tmp_path / "whole/predictions.csv")
    reasons = sorted(row["reason"] for row in rows if row["status"] == "rejected")
    assert len(reasons) == 2
    assert any("no scan for channel scan_arterial" in reason for reason in reasons)
    assert any("scan_arterial: lies in another frame of reference than the column scan" in reason for reason in reasons)
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole", resumed)
    lines = (resumed / "predictions.csv").read_bytes().splitlines(keepends=True)
    (resumed / "predictions.csv").write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed in the middle of a row
    assert command("predict", run / "bundle", table, "-o", resumed).code == 1
    again = read_rows(resumed / "predictions.csv")
    assert [{**row, "seconds": ""} for row in again] == [{**row, "seconds": ""} for row in rows]


def test_patients_of_the_training_are_refused_by_their_second_phase_alone(command, run, phases_csv, tmp_path):
    """The second phase under another name, as a single scan of a stranger, in a table of its own."""
    rows = read_rows(phases_csv)
    cases = locked(run, [row["scan"] for row in rows])
    for number, row in enumerate(rows):
        row.update(patient=f"stranger-{number}", scan=row["scan_arterial"], scan_arterial=row["scan"])
    seen = [row for row in rows if cases[row["scan_arterial"]].role != "test"]
    assert seen
    outcome = command("evaluate", run / "bundle", write_rows(tmp_path / "copies.csv", seen), "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "the bundle was trained on" in outcome.err


def test_two_phases_are_a_source_for_one_and_for_two(run):
    from med_transfer import load_backbone

    two = load_backbone("resnet18-w8", run / "bundle", channels=2)
    one = load_backbone("resnet18-w8", run / "bundle")
    assert two.report.channels == ""
    assert "from 2 channel(s) of the file to 1" in str(one.report)
    kernels = two.encoder.get_submodule("conv1").weight
    torch.testing.assert_close(one.encoder.get_submodule("conv1").weight, kernels.sum(1, keepdim=True))
