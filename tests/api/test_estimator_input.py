"""What a user of scikit-learn may pass by mistake: it is refused in words, and never read as something else."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_bundle import tiny_bundle, write_scan

import med_transfer as mt
from med_transfer.errors import CohortError, MissingLabel, NoAnswer, UsageError


@pytest.fixture
def scans(tmp_path) -> list[Path]:
    return [write_scan(tmp_path / f"{number}.nii.gz", number) for number in range(4)]


@pytest.fixture
def fitted(tmp_path) -> mt.TransferClassifier:
    """A classifier in the state that ``fit`` leaves it in, with the network of a bundle with random weights."""
    estimator = mt.TransferClassifier()
    estimator.run_, estimator.classes_ = mt.Run(tmp_path), np.array(["benign", "malignant"])
    estimator._predictor = mt.load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu")
    return estimator


ONE_PATH = {"text": str, "path": Path, "an array of no dimension": np.array}


@pytest.mark.parametrize("kind", ONE_PATH.values(), ids=ONE_PATH)
def test_a_single_path_is_not_taken_for_a_sequence_of_its_letters(fitted, scans, kind, monkeypatch, tmp_path):
    """The first letter of an absolute path is the whole disk, and that of ``./scan`` the current folder."""
    monkeypatch.chdir(tmp_path)
    for single in (kind(str(scans[0])), kind("./0.nii.gz")):
        for call in (fitted.predict, fitted.predict_proba, lambda X: mt.TransferClassifier().fit(X, ["a"])):
            with pytest.raises(UsageError, match=r"^X: .*expected a sequence of paths, one a scan\. Put a single scan"):
                call(single)


def test_a_table_is_not_taken_for_its_column_names(fitted, scans):
    table = pd.DataFrame({"scan": list(map(str, scans))})
    for call in (fitted.predict, lambda X: mt.TransferClassifier().fit(X, ["a", "b"] * 2)):
        with pytest.raises(UsageError, match=r"^X: shape \(4, 1\); expected a sequence of paths"):
            call(table)
    expected = fitted.predict_proba(scans).tolist()
    for column in (table["scan"], table["scan"].to_numpy(), iter(scans)):
        assert fitted.predict_proba(column).tolist() == expected


def test_no_scans_have_no_predictions(fitted):
    assert fitted.predict_proba([]).shape == (0, 2)
    assert fitted.predict([]).shape == (0,)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([1, 2, 3, 4], ["a", "b"] * 2, "^X, scan 1: found an object of type int; expected a path"),
        ([None] * 4, ["a", "b"] * 2, "^X, scan 1: found an object of type NoneType; expected a path"),
        ([" "] * 4, ["a", "b"] * 2, "^X, scan 1: found ' '; expected a path"),
        (None, ["a", "b"] * 2, "^X: found an object of type NoneType; expected a sequence of paths"),
        (["s"] * 4, None, r"^y: shape \(\); expected one label a scan"),
        (["s"] * 4, np.array(["a", 1] * 2, object), "^y: labels of types int, str; expected one type"),
    ],
)
def test_what_is_no_path_or_no_label_is_refused(X, y, message):
    with pytest.raises(UsageError, match=message):
        mt.TransferClassifier().fit(X, y)


def test_scans_and_labels_are_checked_as_those_of_a_table(scans):
    """Python accepted what the command refuses."""
    fit = mt.TransferClassifier().fit
    with pytest.raises(CohortError, match=r"^X, y: rows 1 and 3 are the same scan and region"):
        fit([scans[0], scans[1], scans[0], scans[2]], ["a", "a", "b", "b"])
    with pytest.raises(
        MissingLabel, match=r"^X, y: 1 of 4 scan paths do not exist: row 4 .*relative to the current folder"
    ):
        fit([*scans[:3], "elsewhere.nii.gz"], ["a", "b"] * 2)
    with pytest.raises(CohortError, match="^X, y: classes 'Benign' and 'benign' differ only in case"):
        fit(scans, ["Benign", "benign", "malignant", "malignant"])
    with pytest.raises(CohortError, match="^X, y: rows 1 and 2 have patients that differ only in case"):
        fit(scans, ["a", "b"] * 2, groups=["P1", "p1", "P2", "P3"])
    with pytest.raises(CohortError, match=r"^groups: scan 2 has no patient"):
        fit(scans, ["a", "b"] * 2, groups=["1", "1.23457E+11", "3", "4"])


def test_the_answers_are_of_the_model_whose_figures_the_run_reports(tmp_path):
    """With a fusion that is reported, the figures were the fused model's, and the answers the network's."""
    scans = [write_scan(tmp_path / f"{number}.nii.gz", number) for number in range(16)]
    config = {"split": {"folds": 2, "test_fraction": 0.25}, "from_scratch_baseline": False, "explain": {"gallery": 0}}
    config |= {
        "input": {"shape": [16, 16, 16]},
        "transfer": {"strategy": "linear_probe"},
        "fusion": {"report": "fused"},
    }
    made = mt.FinetuneConfig.model_validate(config)
    estimator = mt.TransferClassifier(made, tmp_path / "run").fit(scans, ["a", "b"] * 8)
    predictor = mt.load_bundle(estimator.run_, "cpu")
    answers = [predictor.predict(scan) for scan in scans]
    fused = np.array([[answer.fused[name] for name in "ab"] for answer in answers])
    fusion = predictor.record.fusion
    assert fusion is not None
    figures = estimator.run_.metrics.fusion
    assert figures is not None
    assert figures.report == "fused"
    assert estimator.predict_proba(scans).tolist() == fused.tolist()
    for answer in answers:
        assert predictor.record.reported_probabilities(answer) == answer.fused
        with pytest.raises(NoAnswer, match="not fused: column age is bad; expected a scan that can be fused"):
            predictor.record.reported_probabilities(replace(answer, fused={}, reason="not fused: column age is bad"))
    shares = [fusion.balanced_point.thresholds[name] for name in "ab"]
    assert estimator.predict(scans).tolist() == ["ab"[place] for place in (fused / shares).argmax(axis=1)]


def test_a_fit_that_fails_leaves_the_fitted_classifier_and_its_run_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scans = [write_scan(tmp_path / f"scans/{number}.nii.gz", number) for number in range(8)]
    config = {"split": {"folds": 2, "test_fraction": 0}, "from_scratch_baseline": False, "explain": {"gallery": 0}}
    config |= {"input": {"shape": [16, 16, 16]}, "transfer": {"strategy": "linear_probe"}}
    estimator = mt.TransferClassifier(mt.FinetuneConfig.model_validate(config)).fit(scans, ["a", "b"] * 4)
    run, before = estimator.run_, estimator.predict_proba(scans[:1])
    with pytest.raises(CohortError):
        estimator.fit(scans[:3], ["x", "y", "y"])
    assert estimator.run_ == run
    assert run.report.exists()
    assert run.metrics.n_scans == 8
    assert estimator.classes_.tolist() == ["a", "b"]
    assert estimator.predict_proba(scans[:1]).tolist() == before.tolist()
    assert list(tmp_path.glob("med-transfer-*")) == [run.folder.parent]
