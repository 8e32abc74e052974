"""``split.test_fraction=0``: every patient is trained on, and evaluated by networks that did not see them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import TINY, Command, read_rows, settings
from report_samples import without_tooltips
from sklearn.metrics import balanced_accuracy_score, recall_score
from small_network import small_classifier
from small_run_data import small_config, small_run_data

from med_transfer.cohorts.input_facts import INPUT_LENGTHS, INPUT_VALUES
from med_transfer.finetuning.decisions.operating_point_selection import choose_point
from med_transfer.finetuning.decisions.validation_decisions import cross_fitted_decisions
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.finetuning.record import envelope_without
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import GeneralisationGap
from med_transfer.model.ensemble import Ensemble

NO_TEST = (*TINY, "split.test_fraction=0", "training.epochs=1")


@pytest.mark.parametrize("rule", ["youden", "balanced_argmax"])
def test_a_run_without_test_patients_is_measured_out_of_fold(rule, command: Command, cohort_csv, tmp_path):
    chosen = (f"operating_point.rule={rule}", "from_scratch_baseline=false")
    done = command("finetune", cohort_csv, "-o", tmp_path / "run", *settings(*NO_TEST, *chosen))
    assert done.code == 0, done.err
    truth = {row["scan"]: row["label"] for row in read_rows(cohort_csv)}
    rows = read_rows(tmp_path / "run" / "predictions.csv")
    assert {row["scan"] for row in rows} == set(truth)
    assert {row["status"] for row in rows} == {"ok"}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["out_of_fold"], metrics["n_patients"]) == (True, 18)
    called = recall_score([truth[row["scan"]] for row in rows], [row["predicted"] for row in rows], average=None)
    assert [entry["sensitivity"]["value"] for entry in metrics["classes"].values()] == pytest.approx(called)
    assert "18 out-of-fold scans of 18 patients, each by a network not trained on it" in done.out
    assert metrics["test_set_access"] is None
    page = without_tooltips((tmp_path / "run" / "report.html").read_text())
    assert "Development evidence only: no patients were held out as a test set" in page
    assert "All rates on this page are from scans that the answering networks were not trained on." in page
    assert "test scans" not in page.replace("all but the test scans", "")  # the glossary
    if rule == "balanced_argmax":
        again = command("predict", tmp_path / "run" / "bundle", cohort_csv, "-o", tmp_path / "again")
        assert again.code == 0, again.err


def test_a_source_that_saw_the_cohort_cannot_be_measured_on_it(command: Command, finished, cohort_csv, tmp_path):
    source = settings(*NO_TEST, f"backbone.weights={finished.bundle}")
    refused = command("finetune", cohort_csv, "-o", tmp_path / "run", *source)
    assert refused.code == 2
    assert "of these scans or their patients, and there is no test part: row" in refused.err
    assert "or the split.test_fraction that it was made by" in refused.err


def test_a_fusion_needs_test_patients(command: Command, cohort_csv, tmp_path):
    fused = settings(*NO_TEST, "fusion.use=[network,handcrafted]")
    refused = command("finetune", cohort_csv, "-o", tmp_path / "run", *fused)
    assert refused.code == 2
    assert "split.test_fraction: a fusion without test scans" in refused.err
    assert not (tmp_path / "run").exists()


def test_thresholds_from_other_patients_find_nothing_where_there_is_nothing():
    """Youden's thresholds find some order in noise; of patients that had no say in them, they find none."""
    run_data = small_run_data(signal=0, n=90, n_test=0, members=3)
    config = small_config(operating_point={"rule": "youden"})
    gap = GeneralisationGap(
        training_sensitivity=None, validation_sensitivity=None, training_loss=0, validation_loss=0, limit=1
    )
    own, others = [], []
    for seed in range(20):
        p = np.random.default_rng(seed).random(90)
        scores = np.stack([1 - p, p], axis=1)
        trained = TrainedEnsemble(Ensemble([small_classifier()]), (), scores, p, gap)
        cohort = run_data.prepared.cohort
        predictions = LabelledPredictions.of(cohort.truth, scores, cohort.patients, cohort.labels)
        point, _ = choose_point(config.operating_point, predictions)
        calls = np.zeros_like(cohort.truth)
        decided = cross_fitted_decisions(run_data, config, trained)
        for rows, of_others, _ in decided:
            calls[rows] = of_others.predictions(scores[rows], cohort.labels)
        assert sorted(np.concatenate([rows for rows, *_ in decided])) == list(range(90))
        truth = cohort.truth.argmax(1)
        own.append(balanced_accuracy_score(truth, point.predictions(scores, cohort.labels).argmax(1)))
        others.append(balanced_accuracy_score(truth, calls.argmax(1)))
    assert np.mean(own) > 0.53
    assert np.mean(others) == pytest.approx(0.5, abs=0.03)


def test_a_scan_is_held_to_the_limits_of_other_patients_scans():
    """One of another scanner: within limits that were drawn around it, it would never abstain."""
    run_data, random = small_run_data(signal=0, n=30, n_test=0, members=3), np.random.default_rng(0)
    names = (*INPUT_LENGTHS, *INPUT_VALUES, "noise")
    facts = [{name: float(random.uniform(9, 11)) for name in names} for _ in range(30)]
    facts = [each | {"value_p01": 0.0, "value_p99": 20.0} for each in facts]
    facts[7]["noise"] = 500.0
    scans = tuple(replace(scan, input_facts=of) for scan, of in zip(run_data.prepared.scans, facts, strict=True))
    run_data = replace(run_data, prepared=replace(run_data.prepared, scans=scans))
    assert not envelope_without(run_data).outside(facts[7])
    for rows in ([6, 7, 8], [9, 10]):
        alike = [envelope_without(run_data, rows).outside(facts[row]) for row in rows]
        assert [list(found) for found in alike] == [["outside_noise"] if row == 7 else [] for row in rows]


def test_no_scan_decides_on_its_own_call():
    run_data = small_run_data(signal=0, n=30, n_test=0, members=3)
    config = small_config(operating_point={"rule": "youden"})
    gap = GeneralisationGap(
        training_sensitivity=None, validation_sensitivity=None, training_loss=0, validation_loss=0, limit=1
    )
    p = np.random.default_rng(0).random(30)
    trained = TrainedEnsemble(Ensemble([small_classifier()]), (), np.stack([1 - p, p], axis=1), p, gap)
    for rows, point, sets in cross_fitted_decisions(run_data, config, trained):
        changed = trained.validation.copy()
        changed[rows] = changed[rows][:, ::-1]
        again = cross_fitted_decisions(run_data, config, replace(trained, validation=changed))
        same = next(entry for entry in again if set(entry[0]) == set(rows))
        assert same[1:] == (point, sets)
