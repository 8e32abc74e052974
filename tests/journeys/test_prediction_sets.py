"""Prediction sets from a run's validation scans, through its bundle, to every table and report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import Command, FinishedRun, read_rows
from edited_bundle import edit_record
from report_samples import without_tooltips

from med_transfer.bundle import read_record

THRESHOLDS = (0.3, 0.34, 0.36)


@pytest.fixture(scope="module")
def bundle(finished: FinishedRun, tmp_path_factory) -> Path:
    """The finished run's bundle as if more validation patients had ruled out more."""
    copy = tmp_path_factory.mktemp("sets") / "bundle"
    shutil.copytree(finished.bundle, copy)
    return edit_record(copy, prediction_sets={"coverage": 0.9, "thresholds": THRESHOLDS, "n_patients": [40, 40, 40]})


def sets_by_hand(row: dict[str, str], classes: tuple[str, ...]) -> str:
    inside = [name for name, limit in zip(classes, THRESHOLDS, strict=True) if float(row[f"p_{name}"]) >= limit]
    return ";".join(inside) or "{}"


def test_a_run_with_few_patients_rules_nothing_out_and_says_so(finished: FinishedRun):
    sets, classes = read_record(finished.bundle).prediction_sets, read_record(finished.bundle).classes
    assert sets is not None
    assert (sets.coverage, sets.thresholds, sum(sets.n_patients)) == (0.9, (0.0, 0.0, 0.0), 12)
    rows = [row for row in read_rows(finished.folder / "predictions.csv") if row["status"] == "ok"]
    assert {row["prediction_set"] for row in rows} == {";".join(classes)}
    assert "prediction sets of coverage 0.9 need 9 validation patients" in (finished.folder / "run.log").read_text()
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["prediction_sets"]["coverage"]["value"] == 1.0
    page = without_tooltips((finished.folder / "report.html").read_text())
    assert (
        "every set contains every class: none can be ruled out" in page[page.index("Not shown, for lack of content") :]
    )
    assert "In the set from a probability of" not in page


def test_predict_and_evaluate_give_the_sets_of_the_bundle(command: Command, bundle: Path, unseen_csv, tmp_path):
    classes = read_record(bundle).classes
    for words in (("predict", bundle, unseen_csv.parent / "scans"), ("evaluate", bundle, unseen_csv)):
        outcome = command(*words, "-o", tmp_path / words[0])
        assert outcome.code == 0, outcome.err
        rows = read_rows(tmp_path / words[0] / "predictions.csv")
        assert len(rows) == 6
        assert [row["prediction_set"] for row in rows] == [sets_by_hand(row, classes) for row in rows]
    found = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())["prediction_sets"]
    truth = {row["scan"]: row["label"] for row in read_rows(unseen_csv)}
    held = [truth[row["scan"]] in row["prediction_set"].split(";") for row in rows]
    assert found["coverage"]["value"] == pytest.approx(sum(held) / 6)
    assert [one["threshold"] for one in found["classes"].values()] == list(THRESHOLDS)
    assert "Prediction sets and abstention" in without_tooltips((tmp_path / "evaluate" / "report.html").read_text())
