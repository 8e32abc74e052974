"""Strategies from the command line to a bundle that predicts."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import TINY, Command, read_rows, settings
from report_samples import without_tooltips
from safetensors.torch import load_file

from med_transfer.bundle import read_record

OWN = ("split.kind=holdout", "split.val_fraction=0.34", "training.epochs=1")


def finetune(command, cohort, source, folder, *overrides, flags=()):
    chosen = (*TINY, *OWN, f"backbone.weights={source}", *overrides)
    outcome = command("finetune", cohort, "-o", folder, *flags, *settings(*chosen))
    assert outcome.code == 0, outcome.err
    return outcome


def test_a_linear_probe_is_the_source_with_another_head_and_is_never_chosen_on_test_scans(
    command, finished, cohort_csv, unseen_csv, tmp_path
):
    run = tmp_path / "run"
    outcome = finetune(
        command, cohort_csv, finished.bundle, run, "transfer.strategy=linear_probe", flags=("--on-harm", "fallback")
    )
    check_run(run, "linear_probe")
    assert "fine-tuning, fold 1 of 1: features 8 of 8\n" in outcome.err
    page = without_tooltips((run / "report.html").read_text())
    assert ("none, as only a head was fitted" in page, "patience 15" in page, "Epoch with the best" in page) == (
        True,
        False,
        False,
    )
    assert predictions_are_whole(command, run, unseen_csv, tmp_path / "out")

    before, after = (load_file(bundle / "models/model.safetensors") for bundle in (finished.bundle, run / "bundle"))
    encoder = [name for name in after if name.startswith("member0.encoder") and "num_batches" not in name]
    assert encoder
    assert all(after[name].equal(before[name]) for name in encoder)
    assert not after["member0.head.weight"].equal(before["member0.head.weight"])

    metrics = json.loads((run / "metrics.json").read_text())
    kept = metrics["kept_network"]  # four validation scans cannot show harm
    assert (kept["rule"], kept["network"], kept["validation"]["verdict"]) == ("fallback", "transferred", "none")
    assert "before any test scan was predicted" in kept["sentence"]
    assert kept["sentence"] in html.unescape(without_tooltips((run / "report.html").read_text()))
    assert "network kept: transferred, decided on validation scans" in outcome.out
    assert metrics["transfer_gain"]["n_patients"] == metrics["n_patients"]
    assert metrics["generalisation_gap"]["limit"] == 0.2
    log = (run / "run.log").read_text()
    assert "on training and" in log
    assert "train_loss" in log
    assert "train_loss" not in outcome.err  # each epoch and each probe is for the log; a terminal has bars


@pytest.mark.parametrize("strategy", ["lora", "adapters"])
def test_a_bundle_made_with_few_parameters_predicts(command, finished, cohort_csv, unseen_csv, tmp_path, strategy):
    run, own = tmp_path / "run", ("from_scratch_baseline=false", "seed=3")
    finetune(command, cohort_csv, finished.bundle, run, f"transfer.strategy={strategy}", *own)
    check_run(run, strategy)
    drawn = re.findall(r"bootstrap over patients \(.*?seed (\d+)\)", (run / "metrics.json").read_text())
    assert set(drawn) == {"3"}  # the config's seed is that of the intervals, too
    assert predictions_are_whole(command, run, unseen_csv, tmp_path / "out")
    if strategy == "adapters":
        own = (*TINY, f"backbone.weights={run / 'bundle'}")
        outcome = command("finetune", cohort_csv, "-o", tmp_path / "next", *settings(*own))
        assert (outcome.code, "the source has adapters, which cannot be" in outcome.err) == (2, True)
        given = ("--weights", f"resnet18-w8={run}", "--backbones", "resnet18-w8")
        ranked = command("select", cohort_csv, "-o", tmp_path / "ranked", *given, *settings(*TINY))
        assert (ranked.code, "the source has adapters, which cannot be transferred" in ranked.err) == (2, True)
        assert "Give the weights that its adapters were added to" in ranked.err


@pytest.mark.parametrize(
    ("strategy", "penalty", "option"),
    [("gradual_unfreezing", "bss", "bss.strength=0.01"), ("full", "delta", "delta.attention=true")],
)
def test_a_bundle_made_with_a_penalty_predicts(
    command, finished, cohort_csv, unseen_csv, tmp_path, strategy, penalty, option
):
    run, way = tmp_path / "run", (f"transfer.strategy={strategy}", f"transfer.regularise=[{penalty}]")
    own = (f"transfer.{option}", "from_scratch_baseline=false", "explain.gallery=0")
    finetune(command, cohort_csv, finished.bundle, run, *way, *own)
    check_run(run, strategy, penalty)
    assert predictions_are_whole(command, run, unseen_csv, tmp_path / "out")


def check_run(run: Path, strategy: str, *penalties: str) -> None:
    """The strategy and its penalties stand in the config, the report and the bundle."""
    assert yaml.safe_load((run / "config.yaml").read_text())["transfer"]["strategy"]["name"] == strategy
    assert f"{', '.join((strategy, *penalties))}, BatchNorm source" in without_tooltips(
        (run / "report.html").read_text()
    )
    transfer = read_record(run / "bundle").transfer
    assert (transfer.strategy, transfer.regularise, transfer.fallback) == (strategy, penalties, "")
    assert transfer.adapter_reduction == (4 if strategy == "adapters" else None)


def predictions_are_whole(command: Command, run: Path, scans: Path, out: Path) -> bool:
    outcome = command("predict", run / "bundle", scans, "-o", out)
    assert outcome.code == 0, outcome.err
    rows = read_rows(out / "predictions.csv")
    sums = [sum(float(row[name]) for name in row if name.startswith("p_")) for row in rows]
    np.testing.assert_allclose(sums, 1, atol=1e-3)
    return {row["status"] for row in rows} == {"ok"} and len(rows) == len(read_rows(scans))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("transfer.strategy=lora", "lora with a network that starts from random values: there is nothing to transfer"),
        ("transfer.regularise=[l2_sp, l2sp]", "found 'l2sp'; expected 'l2_sp', 'delta' or 'bss'"),
        ("transfer.on_harm=retreat", "found 'retreat'; expected 'report' or 'fallback'"),
        ("backbone.pooled_stages=[9]", "pooled stages [9]; expected different numbers from -4 to 3 for resnet18-w8"),
        ("training.dropout=1", "found 1; expected a value less than 1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(command, cohort_csv, tmp_path, override, complaint):
    outcome = command("finetune", cohort_csv, "-o", tmp_path / "run", *settings(*TINY, override))
    assert outcome.code == 2
    assert complaint in outcome.err
    assert not (tmp_path / "run").exists()
