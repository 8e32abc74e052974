"""One journey per command, on a small phantom cohort, from what is typed to what is on disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from command_line import TINY, FinishedRun, locked, read_rows, settings, stopped, wait_until_begun, write_rows
from PIL import Image
from planted import leaked
from pydicom import dcmread
from report_samples import without_tooltips
from safetensors.torch import load_file, save_file
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score
from tiny_bundle import write_scan

import med_transfer
from med_transfer.atomic.sole_writer import LOCK_FILE
from med_transfer.backbones import load_backbone
from med_transfer.bundle import read_record
from med_transfer.bundle.provenance import source_licences, source_provenance
from med_transfer.cli import app as cli
from med_transfer.cli.summary import say_abstained
from med_transfer.cohorts import Cohort
from med_transfer.inference import folder as folder_of_scans
from med_transfer.phantoms import CLASSES
from med_transfer.predictions.table import PredictionTable
from med_transfer.scans.isolation.limits import IN_PROCESS

LABELS = sorted(CLASSES["texture"])
COLUMNS = [
    *("scan", "patient", "study_uid", "series_uid", "status", "reason", "predicted", "prediction_set"),
    *(f"p_{name}" for name in LABELS),
    *("abstained", "abstained_because", "novelty", "seconds"),
]
OF_PATIENTS = ("texture-00", "other-00", "PHANTOM", "20200101")  # PatientID, PatientName, StudyDate
IN_SUBPROCESS = [sys.executable, "-m", "med_transfer"]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def dicom_folders(table: Path) -> list[Path]:
    return [path for path in sorted((table.parent / "scans").iterdir()) if path.is_dir()]


def nifti_files(table: Path) -> list[Path]:
    return sorted((table.parent / "scans").glob("*.nii.gz"))


# phantom, backbones, inspect


def test_phantom_writes_a_cohort_that_can_be_read(command, tmp_path):
    config = tmp_path / "phantom.yaml"
    config.write_text("format: nifti\nshape: [16, 32, 32]\npatients_per_class: 9\n")
    outcome = command("phantom", tmp_path / "out", "-c", config, *settings("patients_per_class=2", "task=shape"))
    assert (outcome.code, outcome.out) == (0, f"{tmp_path / 'out/cohort.csv'}\n")
    assert Cohort.read(tmp_path / "out/cohort.csv").counts().keys() == set(CLASSES["shape"])
    assert "error" not in outcome.err


def test_backbones_are_listed_and_shown(command):
    listed = command("backbones", "list")
    as_json = json.loads(command("backbones", "list", "--json").out)
    assert {line.split()[0] for line in listed.out.splitlines()} == set(as_json)
    shown = command("backbones", "show", "resnet18-w32")
    assert "8.3 million" in shown.out
    in_full = json.loads(command("backbones", "show", "resnet18-w32", "--json").out)
    assert in_full.pop("cost") == "22 billion multiply-adds for one scan of 96 x 96 x 96 voxels"
    assert in_full == as_json["resnet18-w32"]


def test_backbones_import_keeps_a_checked_file(command, finished, tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path / "store"))
    both = command("backbones", "import", "resnet18-w8", "some.pth", "--download")
    assert (both.code, "both a file and --download; expected one of them" in both.err) == (2, True)

    published = tmp_path / "published.safetensors"
    save_file(load_backbone("resnet18-w8", scratch=True).encoder.state_dict(), published)
    outcome = command("backbones", "import", "resnet18-w8", published, "--json")
    kept = json.loads(outcome.out)
    assert (outcome.code, kept["missing"], Path(kept["path"]).parent) == (0, [], tmp_path / "store")


def test_backbones_import_refuses_a_network_that_remembers_its_patients(command, finished):
    outcome = command("backbones", "import", "resnet18-w8", finished.bundle)
    assert outcome.code == 2
    assert "a network of your own, which remembers its patients; expected a published file" in outcome.err


def test_backbones_verify_says_whether_weights_fit(command, cohort_csv, finished, monkeypatch):
    monkeypatch.setattr("med_transfer.selection.weights_check._DEFAULT_SHAPE", (16, 32, 32))  # the entry has none
    words = ("backbones", "verify", "resnet18-w8", "--weights", finished.bundle, "--limit", 2)
    outcome = command(*words, "--scans", cohort_csv.parent / "scans", "--json")
    found = json.loads(outcome.out)
    assert found["n_scans"] == 2
    assert found["verdict"] in outcome.out
    assert outcome.code == (0 if found["verdict"] in ("fits", "cannot tell") else 1)
    assert set(found["tried"]) >= {"as its entry says", "window -175 to 250 HU", "axes LPS"}
    empty = command(*words, "--scans", cohort_csv.parent / "nowhere")
    assert (empty.code, "nowhere" in empty.err) == (2, True)


def test_inspect_tells_and_draws(command, cohort_csv, tmp_path):
    series = dicom_folders(cohort_csv)[0]
    outcome = command("inspect", series, "--picture", tmp_path / "planes.png")
    assert outcome.code == 0
    assert "verdict      accept" in outcome.out
    assert "64 x 64 x 24" in outcome.out
    with Image.open(tmp_path / "planes.png") as picture:
        picture.load()
        assert min(picture.size) > 50
    (row,) = json.loads(command("inspect", series, "--json").out)["series"]
    header = dcmread(next(series.iterdir()))
    assert row["series_uid"] == header.SeriesInstanceUID
    assert row["spacing_mm"].startswith(f"{header.PixelSpacing[1]:.3f} x {header.PixelSpacing[0]:.3f}")


# index


def test_index_links_labels_under_stable_pseudonyms(command, cohort_csv, tmp_path):
    series = dicom_folders(cohort_csv)
    truth = {row["scan"]: row for row in read_rows(cohort_csv)}
    labelled = [truth[f"scans/{folder.name}"] for folder in series[:-1]]
    sheet = write_rows(tmp_path / "labels.csv", [{k: row[k] for k in ("patient", "label", "sex")} for row in labelled])
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef")
    words = ("index", cohort_csv.parent / "scans", "--labels", sheet, "--key-file", tmp_path / "key", "--json")

    first = command(*words, "-o", tmp_path / "a" / "cohort.csv")
    again = command(*words, "-o", tmp_path / "b" / "cohort.csv")
    assert (first.code, again.code) == (0, 0)
    counts = json.loads(first.out)
    assert counts["n_listed"] == len(labelled)
    assert counts["n_unlabelled"] == 1 + len(nifti_files(cohort_csv))

    cohort = Cohort.read(tmp_path / "a" / "cohort.csv")
    assert [case.label for case in cohort.cases] == [row["label"] for row in labelled]
    assert cohort.patients == Cohort.read(tmp_path / "b" / "cohort.csv").patients
    assert all(name.startswith("P") and len(name) == 13 for name in cohort.patients)
    quality = read_rows(tmp_path / "a" / "cohort.quality.csv")
    assert len(quality) == len(truth)
    assert {row["verdict"] for row in quality} == {"accept"}
    written = "".join(path.read_text() for path in (tmp_path / "a").iterdir()) + first.out + first.err
    assert leaked(OF_PATIENTS, written) == []


# finetune, evaluate, compare


def test_finetune_leaves_the_run_folder_of_the_design(finished, cohort_csv):
    assert finished.outcome.code == 0, finished.outcome.err
    assert files(finished.folder) >= {
        *("config.yaml", "cohort.lock.json", "metrics.json", "predictions.csv", "report.html", "run.log"),
        *("bundle/med_transfer.json", "bundle/models/model.safetensors", "bundle/docs/README.md"),
        *("bundle/configs/metadata.json", "bundle/configs/inference.json"),
    }
    assert yaml.safe_load((finished.folder / "config.yaml").read_text())["input"]["shape"] == [16, 16, 16]
    page = without_tooltips((finished.folder / "report.html").read_text())
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert f"report: {finished.folder / 'report.html'}" in finished.outcome.out
    for name in LABELS:
        assert f"  {name}" in finished.outcome.out


def test_nothing_of_a_patient_leaves_the_prediction_table(finished, transferred):
    said = "".join(run.outcome.out + run.outcome.err for run in (finished, transferred))
    assert leaked(OF_PATIENTS, said) == []
    for run in (finished, transferred):
        for name in files(run.folder) - {"predictions.csv"}:
            content = (run.folder / name).read_bytes()
            assert leaked(OF_PATIENTS, content) == [], name


def test_predictions_and_metrics_agree_with_scikit_learn(finished, cohort_csv):
    table = pd.read_csv(finished.folder / "predictions.csv")
    assert list(table) == COLUMNS
    truth = {row["scan"]: row["label"] for row in read_rows(cohort_csv)}
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    expected = confusion_matrix(table.scan.map(truth), table.predicted, labels=LABELS)
    assert metrics["confusion_matrix"] == expected.tolist()
    assert metrics["failed"]["n"] == 0
    assert table[[f"p_{name}" for name in LABELS]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-6)
    cases = locked(finished.folder, [row["scan"] for row in read_rows(cohort_csv)])
    assert set(table.scan) == {scan for scan, case in cases.items() if case.role == "test"}


def test_finetune_again_changes_nothing_and_speaks_json(command, finished, cohort_csv, tmp_path):
    run = shutil.copytree(finished.folder, tmp_path / "run")
    before = json.loads((run / "metrics.json").read_text())
    trained = {path: path.stat().st_mtime_ns for path in run.glob("training/*/*")}
    outcome = command("finetune", cohort_csv, "-o", run, "--json", *settings(*TINY))
    assert outcome.code == 0
    metrics = json.loads(outcome.out)
    assert metrics["confusion_matrix"] == before["confusion_matrix"]
    assert metrics["calibration"]["brier"]["value"] == pytest.approx(before["calibration"]["brier"]["value"], abs=1e-6)
    assert trained == {path: path.stat().st_mtime_ns for path in run.glob("training/*/*")}


def test_a_bundle_is_a_source_and_its_gain_is_reported(transferred):
    assert transferred.outcome.code == 0, transferred.outcome.err
    assert "100 of 100 encoder tensors loaded" in (transferred.folder / "run.log").read_text()
    gain = json.loads((transferred.folder / "metrics.json").read_text())["transfer_gain"]
    assert gain["verdict"] in ("gain", "none", "harm")
    assert f"transfer over scratch: {gain['verdict']}" in transferred.outcome.out


@pytest.fixture(scope="module")
def without_source(command, transferred, cohort_csv, tmp_path_factory) -> FinishedRun:
    """What the transferred run's from-scratch baseline is to be: the same config without the source."""
    folder = tmp_path_factory.mktemp("runs") / "without-source"
    own = ("transfer.strategy=scratch", "transfer.batch_norm=train", "backbone.weights=null", "explain.gallery=0")
    config = transferred.folder / "config.yaml"
    return FinishedRun(folder, command("finetune", cohort_csv, "-c", config, "-o", folder, *settings(*own)))


def test_the_from_scratch_baseline_is_the_network_of_a_run_without_the_source(transferred, without_source):
    assert without_source.outcome.code == 0, without_source.outcome.err
    record = read_record(without_source.bundle)
    assert (record.backbone.weights, record.backbone.sha256) == (None, None)
    baseline = load_file(transferred.folder / "training-scratch/fold-0/best.safetensors")
    alone = load_file(without_source.folder / "training/fold-0/best.safetensors")
    assert baseline.keys() == alone.keys()
    assert all(tensor.equal(alone[name]) for name, tensor in baseline.items())


def test_the_gain_is_the_transferred_networks_figures_minus_the_other_runs(transferred, without_source):
    gain = json.loads((transferred.folder / "metrics.json").read_text())["transfer_gain"]
    (sensitivity, auc), (its_sensitivity, its_auc) = (figures(run) for run in (transferred, without_source))
    assert gain["balanced_sensitivity"]["value"] == pytest.approx(sensitivity - its_sensitivity)
    assert gain["macro_auc"]["value"] == pytest.approx(auc - its_auc)


def figures(run: FinishedRun) -> tuple[float, float]:
    """Balanced accuracy and macro AUC on the test scans by scikit-learn, from what the run has written."""
    rows = read_rows(run.folder / "predictions.csv")
    labels = {scan: case.label for scan, case in locked(run.folder, [row["scan"] for row in rows]).items()}
    truth, called = [labels[row["scan"]] for row in rows], [row["predicted"] for row in rows]
    probabilities = [[float(row[f"p_{name}"]) for name in LABELS] for row in rows]
    auc = roc_auc_score(truth, probabilities, multi_class="ovr", labels=LABELS)
    return float(balanced_accuracy_score(truth, called)), float(auc)


def test_a_fold_models_weights_remember_their_patients_without_the_run(finished, transferred, tmp_path):
    for run in (finished, transferred):
        weights = (run.folder / "training/fold-0/best.safetensors").read_bytes()
        (tmp_path / "copy.safetensors").write_bytes(weights)
        record, found = read_record(run.bundle), source_provenance(tmp_path / "copy.safetensors")
        assert found is not None
        assert record.trained_on.patient_hashes
        assert set(record.trained_on.patient_hashes) <= set(found.patient_hashes)
        assert set(record.trained_on.content_hashes) <= set(found.content_hashes)
        assert source_licences(tmp_path / "copy.safetensors") == (record.backbone.licence,)


def test_evaluate_on_patients_that_the_bundle_never_saw(command, finished, unseen_csv, tmp_path):
    outcome = command("evaluate", finished.folder, unseen_csv, "-o", tmp_path / "out", "--gallery", 0, "--json")
    assert outcome.code == 0, outcome.err
    metrics = json.loads(outcome.out)
    assert metrics == json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["n_scans"] == len(read_rows(unseen_csv))
    assert {"predictions.csv", "report.html"} <= files(tmp_path / "out")


def test_evaluate_on_its_training_patients_is_refused(command, finished, cohort_csv, tmp_path):
    outcome = command("evaluate", finished.bundle, cohort_csv, "-o", tmp_path / "out", "--gallery", 0)
    assert outcome.code == 2
    assert "error: " in outcome.err
    assert "the bundle was trained on 12 of these scans or their patients: row 2 (scans/case-01" in outcome.err
    assert not files(tmp_path)


def test_evaluate_refuses_a_training_scan_filed_under_another_patient(command, finished, cohort_csv, tmp_path):
    rows = read_rows(cohort_csv)
    for number, row in enumerate(rows):
        row |= {"scan": str(cohort_csv.parent / row["scan"]), "patient": f"new-{number}"}
    outcome = command(
        "evaluate", finished.bundle, write_rows(tmp_path / "c.csv", rows), "-o", tmp_path / "out", "--gallery", 0
    )
    assert (outcome.code, "the bundle was trained on 12 of these" in outcome.err) == (2, True)


def test_compare_holds_two_runs_against_each_other(command, finished, transferred):
    text = command("compare", finished.folder, transferred.folder)
    assert text.code == 0
    assert text.out.count("6 test scans") == 2
    first, second = json.loads(command("compare", finished.folder, transferred.folder, "--json").out)
    assert first["macro_auc_difference"] is None
    expected = second["macro_auc"]["value"] - first["macro_auc"]["value"]
    assert second["macro_auc_difference"]["value"] == pytest.approx(expected)


# predict


@pytest.fixture
def mixed_folder(cohort_csv, unseen_csv, tmp_path) -> Path:
    """Two good scans, and one of each kind of bad one."""
    folder = tmp_path / "scans"
    good, cut, gap = (dicom_folders(unseen_csv) + dicom_folders(cohort_csv))[:3]
    for source, name in ((good, "good"), (cut, "cut"), (gap, "gap")):
        shutil.copytree(source, folder / name)
    shutil.copy(nifti_files(cohort_csv)[0], folder / "good.nii.gz")
    damaged = min((folder / "cut").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:3000])
    in_order = sorted((folder / "gap").iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])
    in_order[10].unlink()
    (folder / "letter.dcm").write_text("Dear colleague,\n")
    (folder / "notes.txt").write_text("nothing\n")
    return folder


def test_predict_goes_on_whatever_one_scan_does(command, finished, mixed_folder, tmp_path):
    outcome = command("predict", finished.bundle, mixed_folder, "-o", tmp_path / "out", "--json")
    assert outcome.code == 1
    counts = {"ok": 2, "rejected": 1, "failed": 2, "ignored": 1}
    said = json.loads(outcome.out)
    others = {"abstained": said["abstained"], "table": str(tmp_path / "out/predictions.csv"), "runtime": "torch"}
    assert said == counts | others
    table = pd.read_csv(tmp_path / "out/predictions.csv", keep_default_na=False).set_index("scan")
    assert [*table.reset_index()] == COLUMNS
    assert table.status.value_counts().to_dict() == {"ok": 2, "rejected": 1, "failed": 2}
    assert set(table.index[table.status == "ok"]) == {"good", "good.nii.gz"}
    assert "1 slice missing: gap" in table.reason["gap"]
    assert table.status["cut"] == table.status["letter.dcm"] == "failed"
    assert re.search(r"truncated: \d+ bytes of pixels, 8192 needed", table.reason["cut"])
    assert "Traceback" not in outcome.err
    assert leaked(OF_PATIENTS, outcome.err + outcome.out + table.to_csv()) == []


def test_a_scan_unlike_all_that_was_held_out_abstains_by_default(command, finished, unseen_csv, tmp_path):
    voxels = np.random.default_rng(0).choice([-1000, 1000], (64, 64, 24)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "noise.nii")
    outcome = command("predict", finished.bundle, tmp_path / "noise.nii", "-o", tmp_path / "out")
    assert read_rows(tmp_path / "out/predictions.csv")[0]["abstained"] == "true"
    said = "1 of 1 predictions abstain: more out-of-distribution than 95% of held-out scans (1); outside the input "
    assert outcome.out.splitlines()[3].startswith(said + "envelope: ")
    row = read_rows(tmp_path / "out/predictions.csv")[0]
    assert row["abstained_because"].startswith("novelty;outside_")
    assert "lies outside of" in row["reason"]
    own = pd.read_csv(finished.folder / "predictions.csv")
    assert f"{own.abstained.sum()} of {len(own)} predictions abstain: more out-of" in finished.outcome.out


def test_predict_a_table_with_regions_of_interest(command, transferred, unseen_csv, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "label"} for row in read_rows(unseen_csv)]
    for row in rows:
        row["scan"] = str(unseen_csv.parent / row["scan"])
    outcome = command("predict", transferred.bundle, write_rows(tmp_path / "t.csv", rows), "-o", tmp_path / "out")
    assert (outcome.code, outcome.out.splitlines()[2]) == (0, "6 ok, 0 rejected, 0 failed, 0 ignored")


def test_predict_without_the_region_that_it_needs_says_so(command, transferred, unseen_csv, tmp_path):
    rows = [{"scan": str(unseen_csv.parent / row["scan"])} for row in read_rows(unseen_csv)]
    outcome = command("predict", transferred.bundle, write_rows(tmp_path / "t.csv", rows), "-o", tmp_path / "out")
    assert (outcome.code, outcome.out.splitlines()[2]) == (3, "0 ok, 0 rejected, 6 failed, 0 ignored")
    assert "no region of interest; expected roi_x_mm, roi_y_mm, roi_z_mm or a mask" in outcome.err
    assert "train with input.region: whole or foreground" in outcome.err


def test_a_killed_prediction_resumes_to_the_same_table(command, finished, cohort_csv, tmp_path):
    """In a process of its own, a fork of this one, which has imported everything; killed once it has three rows."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for copy in range(4):
        for path in nifti_files(cohort_csv)[:6]:
            (scans / f"{copy}-{path.name}").symlink_to(path)
    total = len(list(scans.iterdir()))
    words = ["predict", str(finished.bundle), str(scans), "-o"]
    table = tmp_path / "killed/predictions.csv"
    append, lines = PredictionTable.append, []

    def killed_at_the_third(self, prediction):
        lines.append(append(self, prediction))
        if len(lines) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return lines[-1]

    process = multiprocessing.get_context("fork").Process(target=command, args=(*words, table.parent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_of_scans, "_FEW", 0)  # processes read its scans
        patch.setattr(PredictionTable, "append", killed_at_the_third)
        process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert table.read_bytes().count(b"\n") == 1 + 3

    resumed = command(*words, table.parent)
    whole = command(*words, tmp_path / "whole")
    assert (resumed.code, whole.code) == (0, 0)
    first, second = (pd.read_csv(folder / "predictions.csv") for folder in (table.parent, tmp_path / "whole"))
    assert len(first) == total
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))


def test_each_answer_is_the_same_one_by_one_and_in_a_folder(command, finished, unseen_csv, tmp_path):
    scan = dicom_folders(unseen_csv)[0]
    command("predict", finished.bundle, scan, "-o", tmp_path / "one")
    command("predict", finished.bundle, scan.parent, "-o", tmp_path / "all")
    one, together = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "all"))
    row = together[together.scan == scan.name]
    columns = [f"p_{name}" for name in LABELS] + ["series_uid", "novelty"]
    assert row[columns].to_numpy().tolist() == one[columns].to_numpy().tolist()


# the program itself


def test_the_version_is_told(command):
    assert command("--version").out == f"med-transfer {med_transfer.__version__}\n"


def test_quiet_means_quiet(command, cohort_csv, finished, tmp_path):
    run = shutil.copytree(finished.folder, tmp_path / "run")
    outcome = command("--quiet", "finetune", cohort_csv, "-o", run, *settings(*TINY))
    assert (outcome.code, outcome.err) == (0, "")


STOPPED = "error: stopped; run the same command again to continue"


def endless_training(table: Path, out: Path) -> tuple[list[str], Callable[[], bool]]:
    """Its words, and what tells that it is in its second epoch."""
    words = ["finetune", str(table), "-o", str(out), *settings(*TINY, "training.epochs=500")]
    return words, lambda: "epoch 1," in _log(out)


def says_how_to_go_on(run: Path, err: str) -> bool:
    return err.splitlines()[-1] == STOPPED and "Traceback" not in err and not (run / LOCK_FILE).exists()


def test_ctrl_c_says_how_to_go_on(cohort_csv, tmp_path):
    """In a process of its own, so that to the last of its destructors nothing is said after it."""
    words, begun = endless_training(cohort_csv, tmp_path / "run")
    process = subprocess.Popen([*IN_SUBPROCESS, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_begun(begun, lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert says_how_to_go_on(tmp_path / "run", err), err


def test_a_termination_says_how_to_go_on(cohort_csv, tmp_path):
    outcome = stopped(*endless_training(cohort_csv, tmp_path / "run"), signal.SIGTERM, tmp_path)
    assert outcome.code == 143, outcome.err
    assert says_how_to_go_on(tmp_path / "run", outcome.err), outcome.err


KILLED = """
import os, signal, sys, time
from med_transfer import backbones
from med_transfer.cli.app import main

number = int(sys.argv[1])
signal.signal(number, signal.SIG_DFL)  # where the tests run under nohup it is ignored

def stopped(*_, **__):
    try:
        os.kill(os.getpid(), number)
        time.sleep(20)
    finally:
        print("ended")

if sys.argv[2] == "background":  # of a shell, which ignores Ctrl-C there
    signal.signal(signal.SIGINT, signal.SIG_IGN)
backbones.backbones, sys.argv = stopped, ["med-transfer", "backbones", "list"]
try:
    main()
finally:
    print(signal.getsignal(number) is signal.SIG_DFL)
"""


@pytest.mark.parametrize(
    ("number", "ground", "code"),
    [(signal.SIGTERM, "foreground", 143), (signal.SIGHUP, "foreground", 129), (signal.SIGTERM, "background", 143)],
)
def test_kill_and_a_closed_terminal_end_a_command_as_ctrl_c_does(number, ground, code):
    """In a process of its own: libraries that other tests load here handle signals, too."""
    words = [sys.executable, "-c", KILLED, str(int(number)), ground]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr, done.stdout.split()) == (code, f"{STOPPED}\n", ["ended", "True"])


CLOSED = "<&- >&- 2>&-"


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize(("streams", "unbuffered"), [(">&-", ""), (CLOSED, ""), ("| true", ""), ("| true", "1")])
def test_a_job_is_done_also_where_nobody_reads_what_it_says(tmp_path, streams, unbuffered):
    """As where a service closes them, or a pipe's reader has ended."""
    write_scan(tmp_path / "a.nii.gz")
    words = shlex.join([*IN_SUBPROCESS, "inspect", str(tmp_path / "a.nii.gz"), "--html", str(tmp_path / "page.html")])
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    if streams != CLOSED:  # the reading process has streams of its own, which closed ones must not mix with
        environment[IN_PROCESS] = "1"
    script = ["bash", "-c", f"set -o pipefail; {words} {streams}"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a.nii.gz" in (tmp_path / "page.html").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_a_full_disk_takes_no_more_of_is_an_error(tmp_path, unbuffered):
    write_scan(tmp_path / "a.nii.gz")
    with Path("/dev/full").open("w") as full:
        words = [*IN_SUBPROCESS, "inspect", str(tmp_path / "a.nii.gz")]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered, IN_PROCESS: "1"}
        done = subprocess.run(
            words, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=240, check=False
        )
    assert (done.returncode, done.stderr) == (2, "error: output: No space left on device.\n")


TWICE = """
import atexit, os, signal, sys, time
from med_transfer import backbones
from med_transfer.cli.app import main

def ctrl_c(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)

atexit.register(ctrl_c)
backbones.backbones, sys.argv = ctrl_c, ["med-transfer", "backbones", "list"]
main()
"""


def test_a_second_ctrl_c_while_the_process_ends_says_no_more():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, f"{STOPPED}\n")


WHILE_IT_LOADS = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class CtrlC(MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
sys.argv = ["med-transfer", "--version"]
from med_transfer.__main__ import main
main()
"""


def test_ctrl_c_while_the_commands_load_says_nothing():
    words = [sys.executable, "-c", WHILE_IT_LOADS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def _log(run: Path) -> str:
    return (run / "run.log").read_text() if (run / "run.log").exists() else ""


def test_help_names_every_command_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom med_transfer.cli.app import main\nsys.argv = ['med-transfer', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'monai', 'pydicom', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    commands = (
        "demo",
        "phantom",
        "index",
        "inspect",
        "preview",
        "backbones",
        "finetune",
        "evaluate",
        "compare",
        "predict",
    )
    assert not [name for name in commands if f"  {name} " not in done.stdout]


@pytest.mark.parametrize(("said", "ours"), [("train", "finetune"), ("infer", "predict"), ("version", "--version")])
def test_the_word_of_another_tool_is_answered_with_ours(command, said, ours):
    refused = command(said, "cohort.csv")
    assert (refused.code, f"No such command '{said}'. Did you mean '{ours}'?" in refused.err) == (2, True)
    assert "Did you mean 'inspect'?" in command("inspct").err


@pytest.mark.parametrize(
    "name", ["finetune", "predict", "select", "tune", "labels budget", "plan", "evaluate", "merge"]
)
def test_help_is_for_a_terminal_and_says_what_one_value_of_an_option_is(command, name):
    told = command(*name.split(), "--help").out
    assert "``" not in told
    assert "list[str]" not in told
    assert "[default: (" not in told


def test_who_does_not_abstain_has_no_reason_for_it(capsys):
    say_abstained(0, 5, 0.95, {})
    assert capsys.readouterr().out == "0 of 5 predictions abstain\n"


def test_a_destructor_that_fails_is_told_only_to_who_asked(monkeypatch, capsys):
    """Ctrl-C leaves half-made objects, whose destructors print a traceback after all that was said."""

    class HalfMade:
        def __del__(self):
            raise AttributeError("never set")

    monkeypatch.setattr(cli, "_program", lambda: HalfMade)
    cli.main()
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(cli._settings, "debug", True)
    cli.main()
    assert "AttributeError: never set" in capsys.readouterr().err
