"""Folds that are not in table order: a network's output for a scan stays with that scan and its patient."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_run_data import MARGIN, small_config, small_run_data, source_of

from med_transfer.cohorts import Cohort, PreparedCohort, Split
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.fallback import choose_network
from med_transfer.finetuning.decisions.fusing import fuse_run
from med_transfer.finetuning.decisions.validation_decisions import (
    choose_operating_point,
    choose_prediction_sets,
    cross_fitted_calls,
)
from med_transfer.finetuning.folds import TrainedEnsemble, train_folds
from med_transfer.metrics.records.metrics import GeneralisationGap
from med_transfer.model.ensemble import Ensemble
from med_transfer.progress import silent

PATIENTS, SCANS = 20, 40
PATIENT = np.arange(SCANS) % PATIENTS  # the second scans come after everybody's first
HAS = PATIENT % 4 == 1
AGE = np.random.default_rng(1).integers(30, 90, SCANS) + 10 * HAS
FOLDS = tuple(tuple(np.flatnonzero(part).tolist()) for part in (PATIENT >= 10, PATIENT < 10))
IN_FOLD_ORDER = list(chain.from_iterable(FOLDS))


def plan_of_two_folds() -> RunData:
    """The later patients validate first; a quarter of the patients has the class ``with``."""
    run_data = small_run_data(signal=0.7, n=SCANS, n_test=0)
    cases = tuple(
        replace(case, patient=f"p{patient:02d}", label="with" if has else "without", columns={"age": str(age)})
        for case, patient, has, age in zip(run_data.prepared.cohort.cases, PATIENT, HAS, AGE, strict=True)
    )
    cohort = Cohort(cases, run_data.prepared.cohort.labels)
    return replace(run_data, prepared=PreparedCohort(cohort, run_data.prepared.scans), split=Split((), FOLDS))


PLAN = plan_of_two_folds()


def probability_of_with(seed: int) -> NDArray[np.float64]:
    """[scan], in the order of the table; it knows something of the class."""
    return expit(1.5 * HAS - 1 + np.random.default_rng(seed).normal(size=SCANS))


def trained_ensemble(p: NDArray[np.float64]) -> TrainedEnsemble:
    """One that said so of its validation scans."""
    gap = GeneralisationGap(
        training_sensitivity=1, validation_sensitivity=1, training_loss=0, validation_loss=0, limit=0.2
    )
    return TrainedEnsemble(Ensemble([]), (), np.stack([p, 1 - p], axis=1)[IN_FOLD_ORDER], np.zeros(SCANS), gap)


@pytest.mark.parametrize("balance", ["sampling", "weights", "none"])
def test_a_stacked_fusion_is_scikit_learns_on_each_scans_own_output(balance):
    """With ``balance`` the classes are weighed, and their true shares added: there are three times as many without."""
    fusion = {"use": ["network", "columns"], "columns": ["age"], "penalty": 0.3, "method": "stacked"}
    p = probability_of_with(0)
    found = fuse_run(PLAN, small_config(fusion=fusion, training={"balance": balance}), trained_ensemble(p))
    log_odds = np.log(p / (1 - p))
    inputs = np.stack([log_odds / 2, -log_odds / 2, AGE], axis=1)
    weights = None if balance == "none" else "balanced"
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, class_weight=weights)).fit(inputs, HAS)
    whole = found.combinations[0]
    weight, bias = np.array(whole.weight), np.array(whole.bias)
    np.testing.assert_allclose(weight[0] - weight[1], model[-1].coef_[0], atol=1e-4)
    prior = 0 if balance == "none" else np.log(HAS.mean() / (1 - HAS.mean()))
    assert bias[0] - bias[1] == pytest.approx(model[-1].intercept_[0] + prior, abs=1e-4)


def test_all_scans_of_a_patient_are_calibrated_by_the_same_others(tmp_path):
    """Temperature and bias, as the logits and log odds of a patient's two scans tell, are those of a part."""
    probe = {"probe": {"inverse_strengths": [1.0]}}
    config = small_config("linear_probe", transfer=probe, calibration={"method": "temperature"})
    trained = train_folds(PLAN, config, source_of("sees"), tmp_path, silent)
    tensors = PLAN.prepared.without_margin((MARGIN, MARGIN, MARGIN)).tensors
    logits, log_odds = np.zeros(SCANS), np.zeros(SCANS)
    place = 0
    for member, fold in zip(trained.fold_models, FOLDS, strict=True):
        images = torch.from_numpy(np.stack([tensors[row] for row in fold]).astype(np.float32))
        said = member.classifier(images).detach().double().numpy()
        log_p = np.log(trained.validation[place : place + len(fold)])
        logits[list(fold)], log_odds[list(fold)] = said[:, 0] - said[:, 1], log_p[:, 0] - log_p[:, 1]
        place += len(fold)
    (first, second), (odds, other_odds) = logits.reshape(2, PATIENTS), log_odds.reshape(2, PATIENTS)
    temperature = (first - second) / (odds - other_odds)
    bias = odds - first / temperature
    assert (temperature > 0).all()
    assert len(np.unique(np.stack([temperature, bias]).round(2), axis=1).T) == 5  # one for each part that is left out


def test_the_threshold_of_a_sensitivity_is_that_of_each_scans_own_output():
    wanted = {"rule": "sensitivity", "class": "with", "at_least": 0.8}
    p = probability_of_with(0)
    point, reached = choose_operating_point(PLAN, small_config(operating_point=wanted), trained_ensemble(p))
    assert point.thresholds == {"with": np.sort(p[HAS])[2]}  # 8 of 10 reach it
    assert reached.sensitivity["with"].value == 0.8
    assert reached.specificity["with"].value == pytest.approx((p[~HAS] < point.thresholds["with"]).mean())


def test_prediction_sets_are_those_of_each_scans_own_output():
    p = probability_of_with(0)
    sets = choose_prediction_sets(PLAN, small_config(calibration={"set_coverage": 0.8}), trained_ensemble(p))
    lowest = [np.minimum(one[:PATIENTS], one[PATIENTS:]) for one in (p, 1 - p)]
    with_it, without = lowest[0][HAS[:PATIENTS]], lowest[1][~HAS[:PATIENTS]]
    assert sets.n_patients == (5, 15)
    assert sets.thresholds == (with_it.min(), np.sort(without)[2])  # 5 of 5, and 13 of 15: 0.8 of one more, rounded up


def test_whether_transfer_harms_is_decided_on_each_scans_own_output():
    transferred, scratch = probability_of_with(0), probability_of_with(1)
    config = small_config("full", transfer={"on_harm": "fallback"})
    kept = choose_network(PLAN, config, trained_ensemble(transferred), trained_ensemble(scratch))
    figures = [balanced_accuracy_score(HAS, p >= 0.5) for p in (transferred, scratch)]
    assert kept.validation is not None
    assert kept.validation.balanced_sensitivity.value == pytest.approx(figures[0] - figures[1])
    assert "cross-validated networks" in kept.validation.macro_auc.method  # as the report, of these predictions
    assert not PLAN.split.test
    assert "test scan" not in kept.sentence
    assert "on the same scans, so they tend to be too high after a choice" in kept.sentence


@pytest.mark.parametrize("n_test", [0, 6])
def test_cross_validated_networks_widen_the_interval_of_harm_with_and_without_a_test_set(n_test):
    """The validation scans of one fold trained the networks of the others either way."""
    plan, random = small_run_data(signal=0, n=SCANS, n_test=n_test, members=2), np.random.default_rng(0)
    transferred, scratch = (trained_ensemble(p) for p in random.random((2, SCANS)))
    config = small_config("full", transfer={"on_harm": "fallback"})
    gain = choose_network(plan, config, transferred, scratch).validation
    assert gain is not None
    assert "cross-validated networks" in gain.macro_auc.method
    assert "cross-validated networks" in gain.balanced_sensitivity.method


def test_a_folds_network_starts_from_the_configs_seed_whatever_was_drawn_before(tmp_path):
    source, config, heads = source_of("sees"), small_config("full", training={"epochs": 1}), []
    for before in (1, 2):
        torch.manual_seed(before)
        trained = train_folds(PLAN, config, source, tmp_path / f"{before}", silent)
        heads.append(trained.fold_models[0].classifier.head.weight)
    assert torch.equal(*heads)


def greatest_logit(trained: TrainedEnsemble, plan: RunData) -> NDArray[np.intp]:
    """[scan], in fold order: the class that the network of the scan's fold finds, after balanced training."""
    tensors = plan.prepared.without_margin((MARGIN, MARGIN, MARGIN)).tensors
    found = []
    for member, fold in zip(trained.fold_models, plan.split.validation, strict=True):
        images = torch.from_numpy(np.stack([tensors[row] for row in fold]).astype(np.float32))
        found.append(member.classifier(images).detach().numpy().argmax(axis=1))
    return np.concatenate(found)


@pytest.mark.parametrize("method", ["temperature", "vector", "isotonic"])
def test_by_the_default_rule_each_scan_is_called_as_its_own_network_finds_it(method, tmp_path):
    """Not by what the calibration of all scans, this patient's among them, holds for no evidence."""
    plan = small_run_data(signal=0.12, n=66, n_test=0, members=3)
    config = small_config("linear_probe", calibration={"method": method})
    trained = train_folds(plan, config, source_of("sees"), tmp_path, silent)
    cohort = plan.prepared.cohort.subset(plan.split.validated)
    found = np.eye(2, dtype=bool)[greatest_logit(trained, plan)]
    called = cross_fitted_calls(plan, config, trained)
    if method == "temperature":
        np.testing.assert_array_equal(called, found)
    _, reached = choose_operating_point(plan, config, trained)
    sensitivity = [called[cohort.truth[:, c], c].mean() for c in (0, 1)]
    assert [rate.value for rate in reached.sensitivity.values()] == pytest.approx(sensitivity)


@pytest.mark.parametrize("balance", ["sampling", "none"])
def test_a_rare_class_is_called_by_how_a_scan_looks_also_where_training_left_it_rare(balance, tmp_path):
    """By ``balanced_argmax``, which the most probable class is not: of the patients a quarter are ``with``."""
    config = small_config("linear_probe", training={"balance": balance})
    trained = train_folds(PLAN, config, source_of("sees"), tmp_path, silent)
    labels = PLAN.prepared.cohort.labels
    without = trained.ensemble.calibrator.without_evidence(2, multilabel=False)
    assert without[0] == pytest.approx(HAS.mean(), abs=0.1)
    calls = trained.balanced_point(labels).predictions(trained.validation, labels)[:, 0]
    has = HAS[IN_FOLD_ORDER]
    most_probable = trained.validation[:, 0] > 0.5
    assert calls[has].mean() > most_probable[has].mean()
    assert balanced_accuracy_score(has, calls) > balanced_accuracy_score(has, most_probable)
