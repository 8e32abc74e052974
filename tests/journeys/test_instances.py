"""Whole scans as tiles and as slices, from the command line to a bundle that predicts and is a source."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import TINY, read_rows, settings
from safetensors.torch import load_file

from med_transfer.backbones import load_backbone
from med_transfer.backbones.instance_choice import InstanceChoice
from med_transfer.bundle import load_network, read_record

SMALL = (*TINY, "split.kind=holdout", "split.val_fraction=0.34", "training.epochs=1", "explain.gallery=0")
TILES = (*SMALL, "backbone.name=tiles-med-transfer-small", "input.shape=[16,32,48]", "from_scratch_baseline=false")


def finetune(command, cohort, folder, *overrides):
    outcome = command("finetune", cohort, "-o", folder, *settings(*overrides))
    assert outcome.code == 0, outcome.err
    return folder


def test_frozen_tiles_with_a_linear_head(command, cohort_csv, unseen_csv, tmp_path):
    chosen = (*TILES, "transfer.strategy=linear_probe", "backbone.instance_pooling=mean_max")
    chosen = (*chosen, "backbone.tile_overlap=0.5")
    run = finetune(command, cohort_csv, tmp_path / "run", *chosen)
    record = read_record(run / "bundle").backbone
    assert (record.name, record.instance_pooling) == ("tiles-med-transfer-small", "mean_max")
    assert load_network(run / "bundle").fold_models[0].encoder.overlap == 0.5
    tensors = load_file(run / "bundle/models/model.safetensors")
    assert tensors["member0.head.weight"].shape == (3, 2 * (128 + 256))
    assert not any("attention" in name for name in tensors)
    small = load_backbone("med-transfer-small").encoder.state_dict()
    assert all(torch.equal(tensors[f"member0.encoder.tiled.{n}"], small[n]) for n in small if "num_batches" not in n)
    predicted = command("predict", run / "bundle", unseen_csv, "-o", tmp_path / "out")
    assert predicted.code == 0, predicted.err
    assert {row["status"] for row in read_rows(tmp_path / "out/predictions.csv")} == {"ok"}
    given = ("--backbones", record.name, *settings(*chosen))
    ranked = command("select", cohort_csv, "-o", tmp_path / "ranked", *given)
    assert ranked.code == 0, ranked.err


def test_trained_tiles_are_a_source_for_tiles_pooled_otherwise(command, cohort_csv, tmp_path):
    first = finetune(command, cohort_csv, tmp_path / "first", *TILES, "backbone.instance_pooling=attention")
    attention = load_network(first / "bundle").fold_models[0].encoder.attention
    assert attention.score.weight.abs().sum() > 0
    scan = cohort_csv.parent / read_rows(cohort_csv)[0]["scan"]
    explained = command("explain", first, scan, "-o", tmp_path / "map", "--method", "attention")
    assert explained.code == 0, explained.err
    record = json.loads((tmp_path / "map/explanation.json").read_text())
    assert (record["method"], len(record["sanity"]["correlations"])) == ("attention", 3)
    again = load_backbone("tiles-med-transfer-small", first / "bundle", instances=InstanceChoice("max"))
    assert again.report.matched_share == 1
    assert not again.report.unexpected
    assert load_backbone("tiles-med-transfer-small", first / "bundle").report.fresh == ()


@pytest.mark.parametrize("command_name", ["finetune", "labels"])
def test_a_pooling_of_a_network_without_instances_is_refused(command, cohort_csv, tmp_path, command_name):
    words = ("labels", "budget") if command_name == "labels" else ("finetune",)
    chosen = (*TINY, "backbone.name=med-transfer-small", "backbone.instance_pooling=max")
    outcome = command(*words, cohort_csv, "-o", tmp_path / "out", *settings(*chosen))
    assert outcome.code == 2
    assert "max with med-transfer-small, which sees a scan as a whole; expected a backbone of slices" in outcome.err


def test_three_windows_are_colours_in_the_run_and_in_its_bundle(command, cohort_csv, unseen_csv, tmp_path):
    windows = [{"column": "scan", "window_hu": window} for window in ([-1350, 150], [-160, 240], [-500, 1300])]
    chosen = (*SMALL, "backbone.name=slices-resnet18", "backbone.instance_pooling=mean_max", "input.shape=[8,32,32]")
    chosen = (*chosen, "transfer.strategy=scratch")
    run = finetune(command, cohort_csv, tmp_path / "run", *chosen, f"input.channels={json.dumps(windows)}")
    assert read_record(run / "bundle").backbone.as_colours
    kernel = load_file(run / "bundle/models/model.safetensors")["member0.encoder.net.conv1.weight"]
    assert kernel.shape[1] == 3
    predicted = command("predict", run / "bundle", unseen_csv, "-o", tmp_path / "out")
    assert predicted.code == 0, predicted.err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("tune", "--trials", 1, *settings("tuning.folds=1")), "tiles-med-transfer-small"),
        (("labels", "budget", "--repeats", 1, "--sizes", 5), "slices-efficientnet-lite0"),
    ],
)
def test_search_and_label_budget_work_with_instances(command, cohort_csv, tmp_path, words, name):
    pytest.importorskip("optuna")
    chosen = (*SMALL, f"backbone.name={name}", "backbone.instance_pooling=mean_max", "input.shape=[16,32,48]")
    outcome = command(*words, cohort_csv, "-o", tmp_path / "out", *settings(*chosen, "from_scratch_baseline=false"))
    assert outcome.code == 0, outcome.err
