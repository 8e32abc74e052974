"""A run whose source is blind to the task: with ``fallback`` its bundle is the network from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import TINY, read_rows
from report_samples import without_tooltips
from safetensors.torch import load_file, save_file

import med_transfer as mt
from med_transfer.backbones import load_backbone
from med_transfer.bundle import read_record
from med_transfer.cli.summary import say_metrics
from med_transfer.evaluation.comparison.finished_run import FinishedRun
from med_transfer.finetuning import run as run_module
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import KeptNetwork, Metrics, TransferGain


@pytest.fixture(scope="module")
def blind_source(tmp_path_factory) -> Path:
    """Weights that give the same features for every scan."""
    encoder = load_backbone("resnet18-w8", seed=7).encoder
    torch.nn.init.zeros_(encoder.conv1.weight)
    path = tmp_path_factory.mktemp("source") / "blind.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, path)
    return path


def harmed(run_data, config, trained, scratch) -> KeptNetwork:
    """As :func:`choose_network` decides on enough scans; the few here cannot show it (see test_planted_transfer)."""
    none = Estimate(value=-0.3, ci95=(-0.5, -0.1), method="")
    gain = TransferGain(balanced_sensitivity=none, macro_auc=none, verdict="harm", n_patients=4, method="")
    return KeptNetwork(network="scratch", rule="fallback", validation=gain, sentence="Transfer harmed on them.")


def test_the_bundle_after_a_fallback_is_the_from_scratch_baseline_in_every_respect(
    cohort_csv, blind_source, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_module, "choose_network", harmed)
    overrides = (
        *TINY,
        "split.kind=holdout",
        "split.val_fraction=0.34",
        "training.epochs=1",
        "transfer.on_harm=fallback",
    )
    run = mt.finetune(cohort_csv, out=tmp_path, overrides=(*overrides, f"backbone.weights={blind_source}"))
    bundled = load_file(run.bundle / "models/model.safetensors")
    baseline = load_file(tmp_path / "training-scratch/fold-0/best.safetensors")
    assert all(bundled[f"member0.{name}"].equal(tensor) for name, tensor in baseline.items())

    record = read_record(run.bundle)
    assert (record.transfer.strategy, record.transfer.fallback) == ("scratch", "Transfer harmed on them.")
    assert (record.backbone.weights, record.backbone.sha256) == (None, None)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["kept_network"]["network"] == "scratch"
    assert "The bundle contains the network trained from scratch" in without_tooltips(
        (tmp_path / "report.html").read_text()
    )
    assert "| Fallback | Transfer harmed on them. |" in (run.bundle / "docs/README.md").read_text()

    table = mt.load_bundle(run.bundle).predict_folder(cohort_csv, tmp_path / "again").table
    answers = {row.scan: row for row in _rows(table)}
    judged = {row.scan: row for row in _rows(tmp_path / "predictions.csv")}
    assert judged  # the test figures are of the network in the bundle
    for scan, row in judged.items():
        assert answers[scan].p == pytest.approx(row.p, abs=2e-2)  # prepared tensors are float16


def test_after_a_fallback_nothing_is_said_of_repeats_in_which_the_baseline_was_not_trained(
    cohort_csv, blind_source, tmp_path, monkeypatch
):
    """Its figures are of the first division into folds, also for a comparison with another run."""
    monkeypatch.setattr(run_module, "choose_network", harmed)
    repeated = (
        *TINY,
        "split.test_fraction=0",
        "split.repeats=2",
        "transfer.strategy=linear_probe",
        "training.epochs=1",
    )
    overrides = (*repeated, "transfer.on_harm=fallback", f"backbone.weights={blind_source}")
    run = mt.finetune(cohort_csv, out=tmp_path / "run", overrides=overrides)
    assert run.metrics.repeats is None
    assert run.metrics.kept_network is not None
    assert run.metrics.kept_network.fell_back
    page = without_tooltips(run.report.read_text())
    assert "Each scan was predicted by the network that had not trained on it" in page
    assert "the mean of the 2 networks" not in page
    assert "none, as only a head was fitted" not in page  # nor of how the other network was trained
    assert "patience 15 of at most 1 epochs" in page
    assert {len(roles) for roles in FinishedRun.read(run.folder).folds.values()} == {1}


def test_where_nothing_was_decided_nothing_is_said_of_a_decision(finished, capsys):
    """As in the metrics of a run from scratch that was asked to fall back."""
    metrics = Metrics.load(finished.folder / "metrics.json")
    kept = KeptNetwork(network="scratch", rule="fallback", sentence="There was no transfer.")
    say_metrics(metrics.model_copy(update={"kept_network": kept}))
    assert "network kept" not in capsys.readouterr().out


class _Row:
    def __init__(self, values: dict[str, str]) -> None:
        self.scan = values["scan"]
        self.p = [float(value) for name, value in values.items() if name.startswith("p_")]


def _rows(table: Path) -> list[_Row]:
    return [_Row(values) for values in read_rows(table)]


def test_a_file_from_when_the_network_was_called_kept_is_read(caplog):
    record = KeptNetwork.model_validate({"kept": "scratch", "rule": "fallback", "sentence": "There was no transfer."})
    assert record.network == "scratch"
    assert "key kept of KeptNetwork is now called network" in caplog.text
