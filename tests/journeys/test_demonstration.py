"""The demo's story on few and small scans; ``make demo`` runs the real one."""

from __future__ import annotations

import json

import pytest

from med_transfer.api import demonstration


@pytest.fixture
def small_demo(monkeypatch):
    scans = {"shape": (16, 48, 48), "scans_per_patient": (1, 1), "format": "nifti"}
    for name, patients in (("SOURCE", 4), ("TARGET", 5), ("UNSEEN", 1)):
        config = getattr(demonstration, name)
        monkeypatch.setattr(demonstration, name, config.model_copy(update={**scans, "patients_per_class": patients}))
    for name in ("SOURCE_CONFIG", "TARGET_CONFIG"):
        config = getattr(demonstration, name)
        values = config.model_dump()
        values["split"] |= {"test_fraction": 0.34, "val_fraction": 0.5}
        values["training"] |= {"epochs": 1, "epoch_scans": 16}
        monkeypatch.setattr(demonstration, name, type(config).model_validate(values))


def test_demo_tells_the_whole_story(small_demo, command, tmp_path):
    outcome = command("demo", "-o", tmp_path / "demo")
    assert outcome.code == 0, outcome.err
    assert "WARNING" not in outcome.err  # remarks are in the runs' logs: the first line must not alarm
    assert "left out" in (tmp_path / "demo/run/run.log").read_text(encoding="utf-8")
    assert "nine kinds of lesion" in outcome.out
    assert "Unseen scans: 3 predicted, 2 refused with a reason" in outcome.out
    report = tmp_path / "demo/run/report.html"
    assert f"report: {report.resolve()}" in outcome.out
    assert report.stat().st_size > 10_000
    metrics = json.loads((tmp_path / "demo/run/metrics.json").read_text())
    verdict = metrics["transfer_gain"]["verdict"]
    assert f"transfer over scratch: {verdict}" in outcome.out
    told = {"gain": "Transfer helped", "none": "No gain shown", "harm": "Transfer harmed"}
    assert [name for name, words in told.items() if words in outcome.out] == [verdict]
    assert metrics["failed"]["n"] == 2  # the phantoms' faults: a missing slice, a file cut short
    assert metrics["transfer_gain"]["n_patients"] == metrics["n_patients"]
