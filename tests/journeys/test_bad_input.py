"""Impossible input ends in one line that says why, the documented exit code, and nothing half-written."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from command_line import TINY, Outcome, read_rows, settings, write_rows
from edited_bundle import edit_record
from pydicom import dcmread
from safetensors.torch import save_file
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.backbones import load_backbone
from med_transfer.backbones.weights import loading
from med_transfer.backbones.weights.source_features import SourceFeatures, write_source_features
from med_transfer.errors import OutputError
from med_transfer.finetuning import fold_training
from med_transfer.finetuning.callbacks.checkpoints import ResumePoint
from med_transfer.pretraining.checkpoint import save_checkpoint

USAGE, NOTHING = 2, 3


def refused(outcome: Outcome, code: int, *found: str) -> None:
    """Exactly one line of error, and it says what it should."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert (outcome.code, len(lines)) == (code, 1), outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.err.rstrip().splitlines()[-1] == lines[0]  # nothing after it, so it is one line
    for words in found:
        assert words in lines[0]


def left_over(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def edited(cohort_csv, tmp_path) -> Callable[..., Path]:
    """The cohort's table with its rows changed."""

    def write(change: Callable[[list[dict[str, str]]], list[dict[str, str]] | None]) -> Path:
        rows = read_rows(cohort_csv)
        for row in rows:
            row["scan"] = str(cohort_csv.parent / row["scan"])
        changed = change(rows)
        return write_rows(tmp_path / "edited.csv", rows if changed is None else changed)

    return write


@pytest.fixture
def finetune(command, tmp_path) -> Callable[..., Outcome]:
    return lambda table, *overrides: command("finetune", table, "-o", tmp_path / "run", *settings(*TINY, *overrides))


# paths


def test_a_name_over_two_lines_makes_no_line_of_inspect(command, tmp_path):
    write_scan(tmp_path / "scan\nverdict      accept.nii.gz")
    (tmp_path / "page\nverdict      accept.nii").write_text("<html></html>")
    lines = command("inspect", tmp_path).out.splitlines()
    assert [line for line in lines if line.startswith("verdict")] == ["verdict      accept"]
    assert lines[0].endswith(r"scan\nverdict      accept.nii.gz")


@pytest.mark.parametrize("words", [("inspect",), ("index",), ("predict",)])
def test_missing_folder(command, finished, tmp_path, words):
    more = {"inspect": [], "index": ["-o", tmp_path / "c.csv"], "predict": ["-o", tmp_path / "out"]}[words[0]]
    first = [finished.bundle] if words[0] == "predict" else []
    refused(command(*words, *first, tmp_path / "nowhere", *more), USAGE, "nowhere: no such file or folder")
    assert not left_over(tmp_path)


@pytest.mark.parametrize("words", [("index",), ("predict",)])
def test_empty_folder(command, finished, tmp_path, words):
    (tmp_path / "empty").mkdir()
    first = [finished.bundle] if words[0] == "predict" else []
    refused(command(*words, *first, tmp_path / "empty", "-o", tmp_path / "out.csv"), USAGE, "among 0 files", "expected")
    assert not left_over(tmp_path)


def test_missing_table(command, finetune, finished, tmp_path):
    refused(finetune(tmp_path / "no.csv"), USAGE, "no.csv: No such file or directory; expected a CSV file")
    refused(command("evaluate", finished.bundle, tmp_path / "no.csv", "-o", tmp_path / "out"), USAGE, "no.csv")
    assert not left_over(tmp_path)


def test_inspect_of_an_empty_folder(command, tmp_path):
    refused(command("inspect", tmp_path), USAGE, f"{tmp_path}: no files; expected DICOM, NIfTI")


def test_traceback_only_when_asked_for(command, tmp_path):
    outcome = command("--debug", "inspect", tmp_path / "nowhere")
    assert outcome.code == USAGE
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1] == f"error: {tmp_path / 'nowhere'}: no such file or folder."


# the cohort table


def test_label_for_a_scan_that_does_not_exist(edited, finetune, tmp_path):
    table = edited(lambda rows: rows[3].update(scan="gone.nii.gz"))
    refused(finetune(table), USAGE, "1 of 18 scan paths do not exist: row 5", "gone.nii.gz")
    assert left_over(tmp_path) == {"edited.csv"}


def test_scan_without_a_label(edited, finetune, tmp_path):
    refused(finetune(edited(lambda rows: rows[3].update(label=""))), USAGE, "row 5", "has no label. Fill the label")
    assert left_over(tmp_path) == {"edited.csv"}


def test_one_class_only(edited, finetune, tmp_path):
    table = edited(lambda rows: [row | {"label": "solid"} for row in rows])
    refused(finetune(table), USAGE, "every row has label 'solid'; expected at least two classes")
    assert left_over(tmp_path) == {"edited.csv"}


def test_too_few_patients_of_a_class(edited, finetune):
    solid = [f"texture-{number:04d}" for number in range(18)]
    table = edited(lambda rows: [r for r in rows if r["label"] != "solid" or r["patient"] in solid[:6]])
    refused(finetune(table), USAGE, "class 'solid' has 2 patients; expected at least 3, one each for 2 folds and")
    assert left_over(table.parent) == {"edited.csv"}


def test_patient_on_both_sides_of_the_split_column(edited, finetune):
    def change(rows):
        for number, row in enumerate(rows):
            row["split"] = ("train", "val", "test")[number // 3 % 3]
        rows[6]["patient"] = rows[0]["patient"]

    outcome = finetune(edited(change))
    refused(outcome, USAGE, "one patient in the test set and in development: row 8", "with row 2")
    assert "texture-00" not in outcome.err


def test_identical_scan_under_two_patients(edited, finetune, cohort_csv, tmp_path):
    def change(rows):
        for number, row in enumerate(rows):
            row["split"] = ("train", "val", "test")[number // 3 % 3]
        original = Path(rows[0]["scan"])
        copy = shutil.copytree if original.is_dir() else shutil.copy
        rows[6]["scan"] = str(copy(original, tmp_path / ("copy" + "".join(original.suffixes))))

    refused(finetune(edited(change)), USAGE, "identical images in the test set and in development: row 8", "with row 2")


# scans


def damaged_files(folder: Path, table: Path) -> dict[str, str]:
    """One file or series of each kind in a folder of its own, and what is to be said about it."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 100, (32, 32, 16)).astype(np.float32)
    series = [path for path in sorted((table.parent / "scans").iterdir()) if path.is_dir()]
    folder.mkdir()

    def nifti(name: str, values: np.ndarray) -> Path:
        nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), folder / name)
        return folder / name

    with_nan = voxels.copy()
    with_nan[3, 4, 5] = np.nan
    nifti("nan.nii.gz", with_nan)
    nifti("constant.nii.gz", np.full((32, 32, 16), 7, np.int16))
    whole = nifti("cut-off.nii.gz", voxels).read_bytes()
    (folder / "cut-off.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "corrupt.nii.gz").write_bytes(b"\x1f\x8b" + bytes(range(200)))
    (folder / "letter.dcm").write_text("Dear colleague,\n")
    shutil.copytree(series[0], folder / "truncated")
    first = min((folder / "truncated").iterdir())
    first.write_bytes(first.read_bytes()[:3000])
    shutil.copytree(series[1], folder / "gap")
    in_order = sorted((folder / "gap").iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])
    in_order[10].unlink()
    return {
        "nan.nii.gz": "1 of 16384 voxels are NaN or infinite",
        "constant.nii.gz": "every voxel is 7",
        "cut-off.nii.gz": "truncated or corrupt NIfTI file",
        "corrupt.nii.gz": "truncated or corrupt NIfTI file",
        "letter.dcm": "named as DICOM, but it is text",
        "truncated": "bytes of pixels, 8192 needed",
        "gap": "1 slice missing: gap",
    }


def test_bad_scans_are_left_out_by_name_and_the_rest_is_learned(edited, finetune, cohort_csv, tmp_path):
    bad = damaged_files(tmp_path / "bad", cohort_csv)

    def change(rows):
        for row, name in zip(rows, [*list(bad)[:2], "truncated"], strict=False):  # one a class
            row["scan"] = str(tmp_path / "bad" / name)

    outcome = finetune(edited(change), "training.epochs=1")
    assert outcome.code == 1, outcome.err
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["failed"]["n"] == 3
    log = (tmp_path / "run/run.log").read_text()
    for name in ("nan.nii.gz", "constant.nii.gz", "truncated"):
        assert bad[name] in outcome.err
        assert bad[name] in log
    failed = [row for row in read_rows(tmp_path / "run/predictions.csv") if row["status"] == "failed"]
    assert len(failed) == 3


def test_nothing_but_bad_scans(command, finetune, finished, cohort_csv, tmp_path):
    bad = damaged_files(tmp_path / "bad", cohort_csv)
    rows = [{"scan": str(tmp_path / "bad" / name), "patient": name, "label": "ab"[n % 2]} for n, name in enumerate(bad)]
    table = write_rows(tmp_path / "c.csv", rows)
    refused(finetune(table), NOTHING, f"none of {len(rows)} scans can be used", "The first reason", "NaN or infinite")

    outcome = command("predict", finished.bundle, table, "-o", tmp_path / "out")
    assert outcome.code == NOTHING
    assert "Traceback" not in outcome.err
    reasons = {Path(row["scan"]).name: row["reason"] for row in read_rows(tmp_path / "out/predictions.csv")}
    assert {name: words for name, words in bad.items() if words not in reasons[name]} == {}


def test_inspect_says_what_is_wrong_with_each(command, cohort_csv, tmp_path):
    for name, words in damaged_files(tmp_path / "bad", cohort_csv).items():
        outcome = command("inspect", tmp_path / "bad" / name)
        assert (outcome.code, outcome.err) == (NOTHING, ""), name
        assert words in outcome.out


def test_damaged_nifti_file_does_not_spoil_the_series_beside_it(command, finished, unseen_csv, tmp_path):
    series = next(path for path in sorted((unseen_csv.parent / "scans").iterdir()) if path.is_dir())
    shutil.copytree(series, tmp_path / "study")
    (tmp_path / "study/mask.nii.gz").write_bytes(b"\x1f\x8b" + bytes(range(200)))
    outcome = command("predict", finished.bundle, tmp_path / "study", "-o", tmp_path / "out")
    assert (outcome.code, outcome.out.splitlines()[2]) == (1, "1 ok, 0 rejected, 1 failed, 0 ignored")


# configs


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("training.epoch=3", "--set training.epoch: no such key; expected training.epochs perhaps"),
        ("trainig.epochs=3", "--set trainig.epochs: no such key; expected training perhaps"),
        ("training.epochs=0", "--set training.epochs: found 0; expected a value greater than or equal to 1"),
        ("training.epochs=many", "--set training.epochs: found 'many'; expected a valid integer"),
        ("training.monitor=accuracy", "found 'accuracy'; expected 'balanced_sensitivity', 'macro_auc' or 'loss'"),
        ("input.shape=[16,16]", "--set input.shape: found [16, 16]; expected more values"),
        ("input.shape=[16,16,16,16]", "--set input.shape: found [16, 16, 16, 16]; expected 3 values"),
        ("input.shape=[4,4,4]", "input.shape.0: found 4; expected a value greater than or equal to 8"),
        ("input.shape=[8,8,8]", "input.shape: shape [8, 8, 8]; expected at least [16, 16, 16] for resnet18-w8"),
        ("input.window_hu=[100,-100]", "input: window_hu must rise, for example [-1000, 400]"),
        (
            "input.orientation=XYZ",
            "input.orientation: found 'XYZ'; expected three letters, one each of R/L, A/P and S/I",
        ),
        ("epochs", "--set: 'epochs'; expected section.key=value"),
        ("backbone.name=resnet19", "unknown backbone 'resnet19'; expected resnet18 or "),
        (
            "backbone.name=medicalnet-resnet10",
            "needs a weights file; expected resnet_10_23dataset.pth or resnet_10.pth in ",
        ),
    ],
)
def test_wrong_override(finetune, cohort_csv, tmp_path, override, found):
    refused(finetune(cohort_csv, override), USAGE, found)
    assert not left_over(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("training:\n  epohcs: 3\n", "c.yaml: training.epohcs: no such key; expected training.epochs perhaps"),
        ("training:\n  patience: -1\n", "c.yaml: training.patience: found -1; expected a value greater than or"),
        ("training: [\n", "c.yaml, line 2: not valid YAML"),
        ("seed: 1\nseed: 2\n", "c.yaml, line 2: key 'seed' appears twice"),
    ],
)
def test_wrong_config_file(command, cohort_csv, tmp_path, text, found):
    (tmp_path / "c.yaml").write_text(text)
    refused(command("finetune", cohort_csv, "-c", tmp_path / "c.yaml", "-o", tmp_path / "run"), USAGE, found)
    assert left_over(tmp_path) == {"c.yaml"}


def test_missing_config_file(command, cohort_csv, tmp_path):
    outcome = command("finetune", cohort_csv, "-c", tmp_path / "no.yaml", "-o", tmp_path / "run")
    refused(outcome, USAGE, "no.yaml: No such file or directory; expected a YAML file")


def test_device_that_this_machine_lacks(command, finished, unseen_csv, tmp_path):
    outcome = command("predict", finished.bundle, unseen_csv, "-o", tmp_path / "out", "--device", "tpu")
    refused(outcome, USAGE, "device 'tpu'; expected one of auto, cpu")


def test_a_processor_that_was_asked_for_is_taken_where_there_is_a_gpu_too(command, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # one that does not answer
    scan, bundle = write_scan(tmp_path / "scan.nii.gz"), tiny_bundle(tmp_path / "bundle")
    outcome = command("predict", bundle, scan, "-o", tmp_path / "out", "--device", "cpu")
    assert outcome.code == 0, outcome.err


# weights and bundles


class _Code:
    """What it would do when unpickled is to make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def wrong_weights(kind: str, folder: Path) -> Path:
    path = folder / ("weights.safetensors" if kind in ("other network", "cut off") else "weights.pt")
    if kind == "code in a checkpoint":
        torch.save({"state_dict": _Code(folder / "pwned")}, path)
    elif kind == "code in a bare pickle":
        path.write_bytes(pickle.dumps(_Code(folder / "pwned")))
    elif kind == "a web page":
        path.write_text("<html>not found</html>")
    elif kind in ("other network", "cut off"):
        encoder = load_backbone("resnet10", scratch=True).encoder
        save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, path)
        if kind == "cut off":
            os.truncate(path, path.stat().st_size // 2)
    return path


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("missing", "weights.pt: no such file; expected a weights file or a bundle folder"),
        ("other network", "0 of 100 encoder tensors fit (0%)"),
        ("cut off", "truncated or damaged"),
        ("code in a checkpoint", "holds more than tensors (posix.mkdir) and could run code when opened"),
        ("code in a bare pickle", "holds more than tensors"),
        ("a web page", "not a PyTorch weights file"),
    ],
)
def test_wrong_checkpoint(finetune, cohort_csv, tmp_path, kind, found):
    weights = wrong_weights(kind, tmp_path)
    refused(finetune(cohort_csv, f"backbone.weights={weights}"), USAGE, found)
    assert not (tmp_path / "pwned").exists()
    assert not (tmp_path / "run").exists()


def _flip_a_bit(bundle: Path) -> None:
    weights = bundle / "models/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)


def _endless_weights(bundle: Path) -> None:
    (bundle / "models/model.safetensors").unlink()
    (bundle / "models/model.safetensors").symlink_to("/dev/zero")


def _edit_record(**changes) -> Callable[[Path], None]:
    def edit(bundle: Path) -> None:
        path = bundle / "med_transfer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (_flip_a_bit, "weights are not the ones this bundle was made with; expected SHA-256"),
        (lambda bundle: (bundle / "models/model.safetensors").unlink(), "weights are missing"),
        (lambda bundle: (bundle / "med_transfer.json").unlink(), "not a bundle; expected a folder with"),
        (lambda bundle: (bundle / "med_transfer.json").write_text('{"schema"'), "Invalid JSON"),
        (_edit_record(surprise=1), "med_transfer.json: surprise: Extra inputs are not permitted"),
        (_edit_record(n_members=3), "another decision, was changed after it was locked"),
        (_edit_record(classes=["c", "b", "a"], lock_hash=""), "the lock on its decisions was removed"),
        (
            lambda bundle: edit_record(bundle, n_members=100000),
            "weights do not fit resnet18-w8: 2 networks, not 100000",
        ),
        (lambda bundle: (bundle / "configs/inference.json").write_text("{}"), "contents are not the ones this bundle"),
        (lambda bundle: (bundle / "docs/README.md").unlink(), "README.md: contents are missing"),
        (_endless_weights, "model.safetensors: weights are missing"),
    ],
)
def test_bundle_that_was_tampered_with(command, finished, unseen_csv, tmp_path, tamper, found):
    shutil.copytree(finished.bundle, tmp_path / "bundle")
    tamper(tmp_path / "bundle")
    refused(command("predict", tmp_path / "bundle", unseen_csv, "-o", tmp_path / "out"), USAGE, found)
    assert not (tmp_path / "out").exists()


def test_what_is_no_bundle(command, unseen_csv, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        outcome = command("predict", path, unseen_csv, "-o", tmp_path / "out")
        refused(outcome, USAGE, f"{path}: not a bundle; expected a folder with med_transfer.json")


# output


def test_folder_of_another_run(command, finetune, finished, cohort_csv, tmp_path):
    before = (finished.folder / "config.yaml").read_text()
    outcome = command("finetune", cohort_csv, "-o", finished.folder, *settings(*TINY, "seed=3"))
    refused(outcome, USAGE, "the folder holds a run with another config; expected a new folder, or the same config")
    assert (finished.folder / "config.yaml").read_text() == before


def test_folder_of_a_run_on_other_patients_before_a_scan_is_read(command, edited, finished):
    def other_patients(rows):
        for row in rows:
            row["patient"] = f"other {row['patient']}"

    before = (finished.folder / "run.log").read_text()
    outcome = command("finetune", edited(other_patients), "-o", finished.folder, *settings(*TINY))
    refused(outcome, USAGE, "the folder holds a run on another cohort; expected a new folder, or the same")
    assert "reading" not in outcome.err + (finished.folder / "run.log").read_text().removeprefix(before)


def test_folder_of_a_run_on_another_cohort(command, edited, finished):
    def swap(rows):
        rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]

    before = (finished.folder / "cohort.lock.json").read_bytes()
    outcome = command("finetune", edited(swap), "-o", finished.folder, *settings(*TINY))
    refused(outcome, USAGE, "the folder holds a run on another cohort; expected a new folder, or the same")
    assert (finished.folder / "cohort.lock.json").read_bytes() == before


def test_refused_run_leaves_the_folder_to_the_corrected_one(edited, finetune):
    table = edited(lambda rows: None)
    rows = read_rows(table)
    for row in rows:
        row["scan"] = str(table)  # not a usable one
        row["series_uid"] = row["patient"]
    refused(finetune(write_rows(table, rows), "seed=1"), NOTHING, "none of 18 scans can be used")
    outcome = finetune(edited(lambda rows: None), "training.epochs=1")
    assert outcome.code == 0, outcome.err


def test_table_of_something_else_stays(command, finished, unseen_csv, tmp_path):
    (tmp_path / "predictions.csv").write_text("a,b\n1,2\n")
    outcome = command("predict", finished.bundle, unseen_csv, "-o", tmp_path)
    refused(outcome, USAGE, "predictions.csv: columns a, b; expected scan, patient", "Choose another output folder")
    assert (tmp_path / "predictions.csv").read_text() == "a,b\n1,2\n"


def test_phantoms_never_mix_with_what_is_there(command, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    refused(command("phantom", tmp_path), USAGE, "the folder is not empty; expected a new or empty folder")
    assert left_over(tmp_path) == {"mine.txt"}


def test_compare_wants_finished_runs(command, finished, tmp_path):
    refused(command("compare", finished.folder), USAGE, "1 run; expected at least two to compare")
    outcome = command("compare", finished.folder, tmp_path)
    refused(outcome, USAGE, "no metrics.json, predictions.csv, cohort.lock.json; expected the folder of a finished run")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small or read-only file system at ``folder``; skips where that is not permitted."""
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("name", "file"), [("index", "c.csv"), ("plan", "plan.yaml")])
def test_where_nothing_can_be_written_no_scan_is_looked_at(command, cohort_csv, tmp_path, name, file):
    (tmp_path / "note").write_text("")
    outcome = command(
        name, cohort_csv.parent / "scans" if name == "index" else cohort_csv, "-o", tmp_path / "note" / file
    )
    refused(outcome, USAGE, f"{file}: cannot be written: note is a file; expected a folder of this name, or none")
    assert "looking at scans" not in outcome.err
    assert left_over(tmp_path) == {"note"}


def free_bytes(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def commands_that_write(table: Path, learnable: Path, bundle: Path, disk: Path) -> dict[str, tuple]:
    scans = table.parent / "scans"
    phantom = settings("shape=[16,32,32]", "patients_per_class=2")
    return {
        "phantom": ("phantom", disk / "out", *phantom),
        "index": ("index", scans, "-o", disk / "out/cohort.csv"),
        "finetune": ("finetune", learnable, "-o", disk / "out", *settings(*TINY)),
        "predict": ("predict", bundle, scans, "-o", disk / "out"),
        "evaluate": ("evaluate", bundle, table, "-o", disk / "out"),
        "inspect": ("inspect", scans, "--picture", disk / "out/planes.png"),
    }


NAMES = ("phantom", "index", "finetune", "predict", "evaluate", "inspect")


@pytest.mark.parametrize("name", NAMES)
def test_no_permission_to_write(command, finished, unseen_csv, cohort_csv, tmp_path, name):
    with mounted(tmp_path / "disk", "ro") as disk:
        outcome = command(*commands_that_write(unseen_csv, cohort_csv, finished.bundle, disk)[name])
        refused(outcome, USAGE, "cannot be written: Read-only file system", str(disk / "out"))


@pytest.mark.parametrize("name", NAMES)
def test_disk_full_from_the_start(command, finished, unseen_csv, cohort_csv, tmp_path, name):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        (disk / "filling").write_bytes(bytes(free_bytes(disk)))
        outcome = command(*commands_that_write(unseen_csv, cohort_csv, finished.bundle, disk)[name])
        refused(outcome, USAGE, "cannot be written: No space left on device", "Free disk space")
        assert left_over(disk) == {"filling"}


def test_disk_full_while_predicting_keeps_whole_rows_and_resumes(command, finished, unseen_csv, tmp_path):
    scans = tmp_path / "scans"
    deep = scans.joinpath(*["x" * 200] * 4)  # long rows fill the last pages of the disk soon
    deep.mkdir(parents=True)
    source = next((unseen_csv.parent / "scans").glob("*.nii.gz"))
    for number in range(12):
        shutil.copy(source, deep / f"{number:02d}.nii.gz")
    with mounted(tmp_path / "disk", "size=1m") as disk:
        (disk / "filling").write_bytes(bytes(free_bytes(disk) - 4 * os.sysconf("SC_PAGE_SIZE")))  # two for the table
        outcome = command("predict", finished.bundle, scans, "-o", disk / "out")
        refused(outcome, USAGE, "predictions.csv: cannot be written: No space left on device")
        rows = read_rows(disk / "out/predictions.csv")
        assert 0 < len(rows) < 12
        assert all(row["status"] == "ok" and row["seconds"] for row in rows)
        (disk / "filling").unlink()
        assert command("predict", finished.bundle, scans, "-o", disk / "out").code == 0
        assert len(read_rows(disk / "out/predictions.csv")) == 12


def test_a_state_that_finds_no_room_names_its_file_and_leaves_no_half_one(command, cohort_csv, tmp_path, monkeypatch):
    monkeypatch.setattr(fold_training, "ResumePoint", functools.partial(ResumePoint, seconds=0.0))
    with mounted(tmp_path / "disk", "size=1500k") as disk:  # enough for scans, not for a network and its optimizer
        outcome = command("finetune", cohort_csv, "-o", disk / "run", *settings(*TINY))
        refused(outcome, USAGE, "resume.ckpt: cannot be written: No space left on device", str(disk / "run"))
        assert not {name for name in left_over(disk) if "partial" in name}


def test_a_full_disk_is_told_whatever_library_writes(tmp_path, monkeypatch):
    tensors, table = {"a": torch.zeros(10**6), "b": torch.zeros(10**6)}, np.zeros((1000, 1000), np.float32)
    with mounted(tmp_path / "disk", "size=1m") as disk:
        monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(disk))
        w8 = load_backbone("resnet18-w8", scratch=True)
        writers = {
            "checkpoint.pt": functools.partial(save_checkpoint, disk, tensors),
            "resnet18-w8.safetensors": functools.partial(loading._store, w8.spec, w8.encoder, "0"),
            "w.source.safetensors": functools.partial(
                write_source_features, disk / "w.source.safetensors", SourceFeatures("0", 1000, {(2,): table})
            ),
        }
        for name, write in writers.items():
            with pytest.raises(OutputError, match=rf"{name}: cannot be written: .*No space left on device.*Free disk"):
                write()
        assert left_over(disk) == set()


def test_disk_full_while_training_keeps_no_half_file_and_resumes(command, cohort_csv, tmp_path):
    large = settings(*TINY, "training.epochs=1", "backbone.name=resnet18-w32")  # 33 MB
    words = ("finetune", cohort_csv, "-o", tmp_path / "disk/run", *large)
    with mounted(tmp_path / "disk", "size=200m") as disk:
        (disk / "filling").write_bytes(bytes(free_bytes(disk) - 20 * 2**20))  # enough for scans, not for a network
        outcome = command(*words)
        refused(outcome, USAGE, "best.safetensors: cannot be written: No space left on device")
        left = {Path(name) for name in left_over(disk)}
        assert not {path for path in left if "partial" in path.name}
        assert {path.parent.name for path in left if path.suffix == ".safetensors"} <= {"prepared"}  # whole scans
        (disk / "filling").unlink()
        assert command(*words).code == 0
