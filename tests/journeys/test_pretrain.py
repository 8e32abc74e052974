"""``med-transfer pretrain``: what is written, what is refused, whose scans may not be used for evaluation later."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import get_args

import nibabel
import numpy as np
import pytest
import torch
from command_line import SMALL_SCANS, TINY, neutral_names, read_rows, settings, write_rows
from forked import python
from report_samples import without_tooltips
from safetensors.torch import load_file

import med_transfer as mt
from med_transfer.backbones import registry
from med_transfer.backbones.weights.source_features import read_source_features
from med_transfer.cohorts import SourceLock, recognise
from med_transfer.config import dump_config, load_config
from med_transfer.phantoms import PhantomConfig, phantom_volume, write_cohort
from med_transfer.pretraining import PretrainingConfig, SourceScans
from med_transfer.scans import Provenance, Volume

ROOT = Path(__file__).parents[2]
SMALL = (
    "backbone=resnet18-w8",
    "input_shape=[16,16,16]",
    "crops.shape=[16,16,16]",
    "batch=4",
    "spacing_mm=3",
    "validation_scans=2",
    "steps=2",
    "crops.scans_per_batch=4",
    "masked_autoencoding.statistics_batches=1",
    "contrastive.embedding=16",
)


@pytest.fixture(scope="module")
def source_csv(tmp_path_factory) -> Path:
    """Nine patients of three classes, DICOM and NIfTI."""
    folder = tmp_path_factory.mktemp("source") / "cohort"
    return neutral_names(write_cohort(folder, PhantomConfig(patients_per_class=3, seed=6, **SMALL_SCANS)))


@pytest.fixture(scope="module")
def pretrained(command, source_csv, tmp_path_factory) -> Path:
    """An encoder from these patients' scans and one of nothing, probed with their labels, by masked autoencoding."""
    out = tmp_path_factory.mktemp("pretrained") / "out"
    scans = source_csv.parent / "scans"
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), scans / "empty.nii.gz")
    probe = ("--probe", source_csv, *settings("probe.folds=2", "probe.every_steps=1"))
    outcome = command("pretrain", scans, "-o", out, *settings(*SMALL), *probe, "--json")
    assert outcome.code == 1, outcome.err  # one scan was left out
    assert json.loads(outcome.out)["scans"] == 9
    return out


def test_what_is_written(pretrained, source_csv):
    config = load_config(PretrainingConfig, pretrained / "config.yaml")
    assert config.method == "masked_autoencoding"
    record = json.loads((pretrained / "curve.json").read_text())
    assert (record["monitored"], record["steps"], record["crops_seen"]) == ("probe_auc", 2, 8)
    figures = [entry["measured"] for entry in record["curve"] if "measured" in entry]
    assert [set(one) for one in figures] == [{"explained", "error_hu", "effective_rank", "probe_auc"}] * 3
    assert all(0 <= one["probe_auc"] <= 1 and one["effective_rank"] >= 1 for one in figures)
    lock = SourceLock.read(pretrained / "source.lock.json")
    assert len(lock.content_hashes) == 9
    (left_out,) = read_rows(pretrained / "left_out.csv")
    assert Path(left_out["scan"]).name == "empty.nii.gz"
    assert "every voxel is 0; expected an image" in left_out["reason"]
    dicom = [row["patient"] for row in read_rows(source_csv) if not row["scan"].endswith(".nii.gz")]
    assert 0 < len(dicom) < 9
    assert set(recognise(dicom, lock.patient_hashes).values()) == set(lock.patient_hashes)
    text = (pretrained / "curve.json").read_text() + (pretrained / "source.lock.json").read_text()
    assert not re.search("texture-0", text)


def test_it_loads_by_folder_and_by_file(pretrained):
    for weights in (pretrained, pretrained / "encoder.safetensors"):
        loaded = mt.load_backbone("resnet18-w8", weights)
        assert loaded.report.matched_share == 1
        assert not loaded.report.unexpected
    scratch = mt.load_backbone("resnet18-w8", scratch=True).encoder.conv1.weight
    assert not torch.equal(loaded.encoder.conv1.weight, scratch.half().float())


def test_it_knows_what_its_source_looks_like(command, pretrained, tmp_path):
    """So the gap to a cohort is known in full, and how the source was shown to it is said."""
    loaded = mt.load_backbone("resnet18-w8", pretrained)
    source = read_source_features(pretrained / "encoder.source.safetensors", loaded.sha256)
    assert {stage: table.shape for stage, table in source.features.items()} == {
        (stage,): (256, 8 * 2**stage) for stage in range(4)
    }
    assert source.n_scans == 7  # without those kept for validation
    assert source.input == "crops of 28 to 90 mm as 16 x 16 x 16 voxels"
    phantoms = PhantomConfig(patients_per_class=4, seed=21, **SMALL_SCANS | {"format": "nifti"})
    table = write_cohort(tmp_path / "cohort", phantoms)
    rows = [row | {"patient": f"other-{number}"} for number, row in enumerate(read_rows(table))]
    given = ("--backbones", "resnet18-w8", "--weights", f"resnet18-w8={pretrained}")
    outcome = command("select", write_rows(table, rows), "-o", tmp_path / "out", *given, *settings(*TINY))
    assert outcome.code == 0, outcome.err
    gap = json.loads((tmp_path / "out/selection.json").read_text())["ranking"][0]["gap"]
    assert (gap["unknown"], gap["other_input"]) == ("", source.input)
    assert gap["frechet"] > 0
    assert 0 <= gap["proxy_a_distance"] <= 2
    assert 0 < gap["mmd_p_value"] <= 1


def test_what_it_has_seen_may_not_judge(command, pretrained, source_csv, tmp_path):
    """By the scans where the table's patients have other names, as under pseudonyms."""
    rows = [row | {"scan": str(source_csv.parent / row["scan"])} for row in read_rows(source_csv)]
    for number, row in enumerate(rows):
        row |= {"patient": f"P{number}", "split": ("train", "val", "test")[number // 3]}
    table = write_rows(tmp_path / "cohort.csv", rows)
    for weights in (pretrained, pretrained / "encoder.safetensors"):
        overrides = settings(*TINY, f"backbone.weights={weights}")
        outcome = command("finetune", table, "-o", tmp_path / "run", *overrides)
        assert outcome.code == 2
        assert "the source was trained on 3 test scans or their patients: row 8 (" in outcome.err
        assert not (tmp_path / "run/cohort.lock.json").exists()


def test_what_the_pretraining_has_seen_is_judged_by_the_bundle_only_when_allowed(
    command, pretrained, source_csv, cohort_csv, tmp_path
):
    """By patient where a header names one, by the voxels elsewhere; the bundle's own training scans are others."""
    rows = read_rows(cohort_csv)
    for number, row in enumerate(rows):
        row |= {"scan": str(cohort_csv.parent / row["scan"]), "patient": f"own-{number}"}
    own = (f"backbone.weights={pretrained}", "split.kind=holdout", "split.val_fraction=0.34", "training.epochs=1")
    run = tmp_path / "run"
    table = write_rows(tmp_path / "cohort.csv", rows)
    outcome = command("finetune", table, "-o", run, *settings(*TINY, *own, "from_scratch_baseline=false"))
    assert outcome.code == 0, outcome.err

    seen = [row | {"scan": str(source_csv.parent / row["scan"])} for row in read_rows(source_csv)]
    strangers = [row | {"patient": f"P{number}"} for number, row in enumerate(seen)]
    known = [not row["scan"].endswith(".nii.gz") for row in seen]  # by a header; the others by their voxels alone
    for n, judged in ((sum(known), seen), (9, strangers)):
        words = ("evaluate", run / "bundle", write_rows(tmp_path / "seen.csv", judged), "-o", tmp_path / "out")
        outcome = command(*words)
        found = f"trained on {n} of these scans or their patients ({n} of them by its source or pretraining)"
        refused(outcome, 2, f"{found}: row ", "/scans/case-0", "pass --allow-overlap")
        assert not re.search("texture-0|P0", outcome.err)  # rows and files, never patients

    outcome = command(*words, "--allow-overlap")
    assert outcome.code == 0, outcome.err
    assert "9 of 9 scans (9 of 9 patients) were seen in training" in outcome.out
    assert json.loads((tmp_path / "out/metrics.json").read_text())["overlap"]["seen_by_source"] == 9
    report = without_tooltips((tmp_path / "out/report.html").read_text())
    said = report.index("9 of them were used to train or pretrain the source network.")
    assert report.index("9 of 9 scans were seen in training") < said < report.index("Who was evaluated</h3>")


def test_a_chain_remembers_everyone(command, pretrained, chest_source, tmp_path):
    """Teacher and start are the pretrained encoder; its patients come along."""
    for key, method in (("weights", "contrastive"), ("distillation.teacher_weights", "distillation")):
        more = (f"{key}={pretrained}", "distillation.teacher=resnet18-w8", "distillation.calibration_batches=1")
        out = tmp_path / method
        words = ("pretrain", chest_source, "-o", out, "--method", method, *settings(*SMALL, *more, "steps=1"))
        outcome = command(*words)
        assert outcome.code == 0, outcome.err
        assert f"backbone.weights={out}" in outcome.out
        before, after = (SourceLock.read(folder / "source.lock.json") for folder in (pretrained, out))
        assert set(after.patient_hashes) == set(before.patient_hashes)
        assert set(after.content_hashes) > set(before.content_hashes)


@pytest.fixture(scope="module")
def chest_source(tmp_path_factory) -> Path:
    """Three phantoms as a prepared file."""
    made = [phantom_volume("solid", seed=9, patient=n, shape=(24, 64, 64)) for n in range(3)]
    volumes = [Volume(one.voxels, one.affine, Provenance(Path("phantom"), "nifti")) for one in made]
    path = tmp_path_factory.mktemp("source") / "source.npz"
    SourceScans.from_volumes(volumes, spacing_mm=3.0).save(path)
    return path


def test_labels_from_python(source_csv, tmp_path):
    steps = []
    done = mt.pretrain(
        source_csv,
        out=tmp_path,
        overrides=(*SMALL, "method=supervised"),
        device="cpu",
        progress=lambda stage, done, total, note="": steps.append((stage, done)),
    )
    assert (done.n_scans, done.n_left_out) == (9, 0)
    assert steps[-1] == ("pretraining", 2)
    lock = SourceLock.read(tmp_path / "source.lock.json")
    patients = {row["patient"] for row in read_rows(source_csv)}
    assert recognise(patients, lock.patient_hashes).keys() == patients
    figures = json.loads(done.curve.read_text())["curve"][-1]["measured"]
    assert {"log_likelihood", "accuracy"} < set(figures)
    mt.load_backbone(done.backbone, done.folder)


def test_two_processes_train_one_network(chest_source, tmp_path):
    """Forks of torchrun; each prints the sum of its weights, which gradients of its own would have moved apart."""
    script = tmp_path / "train.py"
    script.write_text(
        """
import torch, torch.distributed as dist
from med_transfer.pretraining import loop
from med_transfer.cli.app import main
step = loop.Training._step
def spied(self):
    step(self)
    own = torch.stack([p.double().sum() for p in self.method.parameters() if p.requires_grad])
    seen = [torch.zeros_like(own) for _ in range(2)]
    dist.all_gather(seen, own)
    crops = torch.tensor([float(self.method.crops.random.get_state().sum())])
    draws = [torch.zeros_like(crops) for _ in range(2)]
    dist.all_gather(draws, crops)
    if dist.get_rank() == 0:
        said = {True: "equal", False: "apart"}
        print("weights", said[torch.equal(*seen)], "draws", said[torch.equal(*draws)])
loop.Training._step = spied
main()
"""
    )
    forks = ("--standalone", "--nproc_per_node=2", "--start-method=fork", "--run-path")
    words = ("pretrain", chest_source, "-o", tmp_path / "out", "--method", "contrastive", "--device", "cpu")
    said, err, alone = tmp_path / "said", tmp_path / "err", {"GLOO_SOCKET_IFNAME": "lo"}
    words = (*forks, script, *words, *settings(*SMALL, "validation_scans=1"))
    process = python("-m", "torch.distributed.run", *words, out=said, err=err, environment=alone)
    process.join(500)
    assert process.exitcode == 0, err.read_text()
    assert said.read_text().count("weights equal draws apart") == 2
    assert said.read_text().count("encoder: ") == 1
    record = json.loads((tmp_path / "out/curve.json").read_text())
    assert (record["processes"], record["crops_seen"]) == (2, 16)
    state = torch.load(tmp_path / "out/checkpoint.pt", weights_only=True)
    assert len(state["chance"]) == 2
    assert load_file(tmp_path / "out/encoder.safetensors")


# what is refused


def refused(outcome, code: int, *found: str) -> None:
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert (outcome.code, len(lines)) == (code, 1), outcome.err
    assert "Traceback" not in outcome.err
    for words in found:
        assert words in lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "exactly one of minutes and steps"),
        (
            ("--method", "guessing", "--set", "steps=1"),
            "method: found 'guessing'; expected 'distillation', 'supervised'",
        ),
        (("--set", "step=1"), "step: no such key; expected steps perhaps"),
        (("--set", "steps=1", "--device", "tpu"), "device 'tpu'; expected one of auto, cpu"),
        (("--set", "steps=1", "--set", "backbone=resnet19"), "unknown backbone 'resnet19'"),
        (("--set", "steps=1", "--set", "weights=published"), "resnet18-w32 has no published weights"),
        (("--set", "steps=1", "--set", "weights=gone.pt"), "gone.pt: no such file"),
        (("--set", "steps=1", "--teacher-weights", "t.pt"), "--teacher-weights with method masked_autoencoding"),
        (
            ("--set", "steps=1", "--method", "distillation", "--set", "distillation.teacher=medicalnet-resnet10"),
            "backbone medicalnet-resnet10 needs a weights file",
        ),
        (("--set", "steps=1"), "3 source scans of 3 patients, 3 of them for validation; expected something left"),
        (("--set", "steps=1", "--probe", "gone.csv"), "gone.csv: No such file or directory; expected a CSV file"),
        (("--set", "steps=1", "--method", "supervised"), "no table; expected a cohort.csv with a label in every row"),
    ],
)
def test_wrong_usage(command, chest_source, tmp_path, monkeypatch, words, message):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path / "none"))
    refused(command("pretrain", chest_source, "-o", tmp_path / "out", *words), 2, message)
    assert not (tmp_path / "out/config.yaml").exists()


def test_a_licence_that_was_not_accepted(command, chest_source, tmp_path, monkeypatch):
    """For the teacher and for the start; no entry of the catalogue needs it yet, so one is made to."""
    restricted = dataclasses.replace(registry.find_backbone("resnet10"), must_accept=True, licence="CC-BY-NC")
    monkeypatch.setitem(registry._REGISTRY, "resnet10", restricted)
    for words in (
        settings("method=distillation", "distillation.teacher=resnet10"),
        settings("backbone=resnet10", "weights=published"),
    ):
        outcome = command("pretrain", chest_source, "-o", tmp_path / "out", *words, "--set", "steps=1")
        refused(outcome, 2, "backbone resnet10: its licence is restricted and was not accepted; expected 'CC-BY-NC'")


def test_no_scan_or_none_that_can_be_used(command, tmp_path):
    (tmp_path / "scans").mkdir()
    words = ("pretrain", tmp_path / "scans", "-o", tmp_path / "out", *settings(*SMALL))
    refused(command(*words), 2, "no scan to learn from")
    (tmp_path / "scans/broken.nii.gz").write_bytes(b"\x1f\x8b cut short")
    refused(command(*words), 2, "no scan to learn from")
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), tmp_path / "scans/empty.nii.gz")
    refused(command(*words), 3, "none of 1 scan can be used", "The first reason")


def test_a_folder_that_holds_something_else(command, pretrained, chest_source, tmp_path):
    dump_config(mt.FinetuneConfig(), tmp_path / "config.yaml")
    outcome = command("pretrain", chest_source, "-o", tmp_path, *settings(*SMALL))
    refused(outcome, 2, "the folder holds something other than a pretraining", "Choose another -o")
    outcome = command("pretrain", chest_source, "-o", pretrained, *settings(*SMALL, "seed=7"))
    refused(outcome, 2, "checkpoint of another run", "Give the arguments it was started with, or another folder")


@pytest.mark.parametrize("path", sorted((ROOT / "configs/pretraining").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_that_ships_is_valid(path):
    config = load_config(PretrainingConfig, path)
    assert path.stem.startswith(config.method)
    assert f"configs/pretraining/{path.name}" in path.read_text()


def test_the_help_names_every_method(command):
    said = " ".join(command("pretrain", "--help").out.split())
    methods = get_args(PretrainingConfig.model_fields["method"].annotation)
    assert [name for name in methods if name not in said] == []
