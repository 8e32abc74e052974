"""Strategies from the command line to a bundle that predicts."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest
import yaml
from command_line import TINY, read_rows, settings
from safetensors.torch import load_file

from med_transfer.bundle import load_network, read_record

OWN = ("split.kind=holdout", "split.val_fraction=0.34", "training.epochs=1")


def finetune(command, cohort, source, folder, *overrides, flags=()):
    chosen = (*TINY, *OWN, f"backbone.weights={source}", *overrides)
    outcome = command("finetune", cohort, "-o", folder, *flags, *settings(*chosen))
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.mark.parametrize("strategy", ["linear_probe", "lora", "adapters"])
def test_a_bundle_made_with_a_strategy_predicts(command, finished, cohort_csv, unseen_csv, tmp_path, strategy):
    twin = "scratch_twin=" + ("true" if strategy == "linear_probe" else "false")
    finetune(command, cohort_csv, finished.bundle, tmp_path / "run", f"transfer.strategy={strategy}", twin)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["transfer"]["strategy"] == strategy
    report = (tmp_path / "run/report.html").read_text()
    assert f"{strategy}, BatchNorm source" in report
    assert "Training and validation" in report
    record = read_record(tmp_path / "run/bundle")
    assert (record.transfer.strategy, record.transfer.fallback) == (strategy, "")
    assert record.transfer.adapter_reduction == (4 if strategy == "adapters" else None)

    outcome = command("predict", tmp_path / "run/bundle", unseen_csv, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    rows = read_rows(tmp_path / "out/predictions.csv")
    assert {row["status"] for row in rows} == {"ok"}
    assert len(rows) == len(read_rows(unseen_csv))
    sums = [sum(float(row[f"p_{name}"]) for name in record.classes) for row in rows]
    np.testing.assert_allclose(sums, 1, atol=1e-3)


def test_the_probes_bundle_is_the_source_with_another_head(command, finished, cohort_csv, tmp_path):
    finetune(command, cohort_csv, finished.bundle, tmp_path, "transfer.strategy=linear_probe", "scratch_twin=false")
    before, after = (
        load_file(folder / "models/model.safetensors") for folder in (finished.bundle, tmp_path / "bundle")
    )
    encoder = [
        name for name in after if name.startswith("member0.encoder") and not name.endswith("num_batches_tracked")
    ]
    assert encoder
    assert all(after[name].equal(before[name]) for name in encoder)
    assert not after["member0.head.weight"].equal(before["member0.head.weight"])
    assert load_network(tmp_path / "bundle").n_members == 1


def test_what_was_kept_is_said_and_decided_on_validation_scans(command, finished, cohort_csv, tmp_path):
    outcome = finetune(
        command, cohort_csv, finished.bundle, tmp_path, "transfer.strategy=linear_probe",
        flags=("--on-harm", "fallback"),
    )  # fmt: skip
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    kept = metrics["kept_network"]
    assert kept["rule"] == "fallback"
    assert kept["kept"] == ("scratch" if kept["validation"]["verdict"] == "harm" else "transferred")
    assert "before any test scan was predicted" in kept["sentence"]
    assert kept["sentence"] in html.unescape((tmp_path / "report.html").read_text())
    assert f"network kept: {kept['kept']}, decided on validation scans" in outcome.out
    assert metrics["transfer_gain"]["n_patients"] == metrics["n_patients"]
    assert metrics["fit_gap"]["limit"] == 0.2
    assert "balanced sensitivity" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("transfer.strategy=lora", "lora with a network that starts from random values: there is nothing to transfer"),
        ("transfer.regularise=[l2_sp, l2sp]", "found 'l2sp'; expected 'l2_sp', 'delta' or 'bss'"),
        ("transfer.on_harm=retreat", "found 'retreat'; expected 'report' or 'fallback'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(command, cohort_csv, tmp_path, override, complaint):
    outcome = command("finetune", cohort_csv, "-o", tmp_path / "run", *settings(*TINY, override))
    assert outcome.code == 2
    assert complaint in outcome.err
    assert not (tmp_path / "run").exists()
