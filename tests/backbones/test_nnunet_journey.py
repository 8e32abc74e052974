"""From an nnU-Net folder to a bundle that no longer needs it."""

import json

import numpy as np
import pytest
import torch
from command_line import TINY, Command, read_rows, settings
from nnunet_model import CT, FOLDER, architecture, plans, write_model
from unet_reference import NNUNet

from med_transfer.backbones import load_backbone
from med_transfer.bundle import RECORD_FILE, load_network, read_record
from med_transfer.errors import BackboneError, BundleError
from med_transfer.pretraining import PretrainingConfig, SourceScan, SourceScans, pretrain

NET = NNUNet((4, 8, 8), ((1, 3, 3), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), (1, 2, 2), residual=True)


@pytest.fixture(scope="module")
def run(command: Command, cohort_csv, tmp_path_factory):
    """Two epochs from an nnU-Net's folder, which is gone afterwards; and the encoder that the run started from."""
    model = tmp_path_factory.mktemp("nnunet") / FOLDER
    write_model(model, NET, plans(architecture(NET)))
    source = load_backbone("nnunet-v2", model)
    out = tmp_path_factory.mktemp("runs") / "nnunet"
    own = ("backbone.name=nnunet-v2", f"backbone.weights={model}", "split.kind=holdout", "split.val_fraction=0.34")
    outcome = command("finetune", cohort_csv, "-o", out, *settings(*TINY, *own))
    assert outcome.code == 0, outcome.err
    model.rename(model.with_name("gone"))
    return out, source


def test_bundle_predicts_without_the_folder(run, command, unseen_csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = command("predict", run[0] / "bundle", unseen_csv, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    rows = read_rows(tmp_path / "out/predictions.csv")
    assert [row["status"] for row in rows] == ["ok"] * 6


def test_record_tells_the_network_and_its_input(run):
    record, plan = read_record(run[0] / "bundle"), run[1].spec.plan
    assert record.backbone.plan == plan
    assert record.backbone.weights == FOLDER
    assert record.preprocessing.window_hu == (CT["percentile_00_5"], CT["percentile_99_5"])
    assert record.preprocessing.spacing_mm == (3.0, 1.5, 1.25)
    assert load_network(run[0] / "bundle").member0.encoder.stage_channels == (4, 8, 8)


def test_transfer_gain_was_measured_against_the_same_network(run):
    metrics = json.loads((run[0] / "metrics.json").read_text())
    assert metrics["transfer_gain"]["verdict"] in {"gain", "none", "harm"}


@pytest.mark.parametrize("inside", ["", "models/model.safetensors"])
def test_bundle_is_a_source_again(run, inside):
    loaded = load_backbone("nnunet-v2", run[0] / "bundle" / inside)
    assert loaded.report.matched_share == 1
    assert not loaded.report.unexpected
    assert loaded.spec.plan == run[1].spec.plan
    x = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder.eval()(x)[-1], load_network(run[0] / "bundle").member0.encoder(x)[-1])


def test_what_is_pretrained_from_the_folder_is_a_source_without_it(tmp_path):
    model = tmp_path / FOLDER
    write_model(model, NET, plans(architecture(NET)))
    hu = np.random.default_rng(0).normal(0, 200, (2, 20, 40, 40)).astype(np.int16)
    scans = SourceScans(tuple(SourceScan(voxels, (1.0, 1.0, 1.0), f"scan {n}") for n, voxels in enumerate(hu)))
    crops = {"shape": (8, 16, 16), "size_mm": (20, 30)}
    few = {"steps": 1, "batch": 2, "validation_scans": 0, "input_shape": (8, 16, 16), "crops": crops}
    asked = {"method": "contrastive", "backbone": "nnunet-v2", "weights": str(model)} | few
    made = pretrain(scans, PretrainingConfig.model_validate(asked), tmp_path / "pretrained", source_features=False)
    plan = load_backbone("nnunet-v2", model).spec.plan
    model.rename(tmp_path / "gone")
    for weights in (made.folder, made.encoder):
        loaded = load_backbone("nnunet-v2", weights)
        assert loaded.report.matched_share == 1
        assert loaded.spec.plan == plan


def test_damaged_plan_in_a_bundle(run, tmp_path):
    content = json.loads((run[0] / "bundle" / RECORD_FILE).read_text())
    content["backbone"]["plan"]["architecture"]["strides"] = [[1, 1, 1]]
    (tmp_path / RECORD_FILE).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"backbone\.plan\.architecture: 1 strides for 3 stages"):
        read_record(tmp_path)
    with pytest.raises(BackboneError, match=r"plan\.architecture: 1 strides for 3 stages"):
        load_backbone("nnunet-v2", tmp_path)


def test_bundle_of_another_backbone(run, tmp_path):
    content = json.loads((run[0] / "bundle" / RECORD_FILE).read_text())
    content["backbone"] |= {"name": "resnet18-w32", "plan": None}
    (tmp_path / RECORD_FILE).write_text(json.dumps(content))
    with pytest.raises(BackboneError, match=r"a bundle of resnet18-w32\. Give it to backbone resnet18-w32"):
        load_backbone("nnunet-v2", tmp_path)
    (tmp_path / RECORD_FILE).write_text("{}")
    with pytest.raises(BackboneError, match=r"damaged \('backbone'\)\. Copy the whole bundle folder again"):
        load_backbone("nnunet-v2", tmp_path)
