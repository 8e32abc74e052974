"""The demo's workflow on few, small scans; ``make demo`` runs the real one."""

from __future__ import annotations

import json

import pytest

from med_transfer.api import demonstration
from med_transfer.cohorts import preparation
from med_transfer.cohorts.preparation import prepare_scan


@pytest.fixture
def small_demo(monkeypatch):
    scans = {"shape": (16, 48, 48), "scans_per_patient": (1, 1), "format": "nifti"}
    for name, patients, parts in (("TARGET", 6, (2, 2)), ("UNSEEN", 1, None)):
        changes = {**scans, "patients_per_class": patients, "train_val_patients": parts}
        monkeypatch.setattr(demonstration, name, getattr(demonstration, name).model_copy(update=changes))
    training = demonstration.TARGET_CONFIG.training.model_copy(update={"epochs": 1, "epoch_scans": 16})
    small = demonstration.TARGET_CONFIG.model_copy(update={"training": training})
    monkeypatch.setattr(demonstration, "TARGET_CONFIG", small)


@pytest.fixture
def prepared(monkeypatch) -> list[str]:
    """The scans that were read and preprocessed, each time that it was done."""
    scans = []

    def noted(case, *args):
        scans.append(case.scan)
        return prepare_scan(case, *args)

    monkeypatch.setattr(preparation, "prepare_scan", noted)
    return scans


def test_demo_tells_the_whole_story(small_demo, prepared, command, tmp_path):
    outcome = command("demo", "-o", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    assert "WARNING" not in outcome.err  # remarks are in the runs' logs: the first line must not alarm
    assert "left out" in (tmp_path / "demo/run/run.log").read_text(encoding="utf-8")
    first, rest = outcome.out.split("2. Did transfer help?")
    alone = json.loads((tmp_path / "demo/run-first/metrics.json").read_text())
    assert alone["transfer_gain"] is None  # no claim about transfer: there is no network from scratch to compare with
    assert f"macro AUC {alone['macro_auc']['value']:.2f}" in first
    assert "Unseen scans: 3 predicted, 2 not, each with its reason" in outcome.out
    report = tmp_path / "demo/run/report.html"
    assert f"report: {report.resolve()}" in outcome.out
    assert report.stat().st_size > 10_000
    metrics = json.loads((tmp_path / "demo/run/metrics.json").read_text())
    verdict = metrics["transfer_gain"]["verdict"]
    assert f"transfer over scratch: {verdict}" in rest
    told = {"gain": "Transfer helped", "none": "No gain shown", "harm": "Transfer harmed"}
    assert [name for name, words in told.items() if words in outcome.out] == [verdict]
    assert metrics["failed"]["n"] == 2  # the phantoms' faults: a missing slice, a file cut short
    assert metrics["transfer_gain"]["n_patients"] == metrics["n_patients"]
    read_again = [scan for scan in set(prepared) if prepared.count(scan) > 1]
    assert len(read_again) == 2 < len(set(prepared))  # those that were refused; the others the first run has prepared
