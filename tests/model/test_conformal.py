"""Prediction sets: the order statistic, coverage in simulation, patients with several scans, too few patients."""

import numpy as np
import pytest
from pydantic import ValidationError

from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance
from med_transfer.bundle.model_card import model_card_rows
from med_transfer.model.calibration.conformal import PredictionSets, fit_prediction_sets, least_patients
from med_transfer.preprocessing import PreprocessingConfig


def record(**changes):
    """Of a bundle that needs no network."""
    return BundleRecord(
        classes=("benign", "malignant"),
        preprocessing=PreprocessingConfig(shape=(16, 16, 16), spacing_mm=(2, 1, 1)),
        backbone=BackboneRecord(name="resnet18-w32", pooled_stages=(-1,), licence="Apache-2.0", source="none"),
        n_fold_models=2,
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=("a",), content_hashes=("b",)),
        **changes,
    )


def two_classes(rng, n, per_patient=1):
    """Probabilities that order scans but mean nothing; ``n`` patients a class, whose scans are alike."""
    has = np.repeat([False, True], n * per_patient)
    own = rng.normal(size=2 * n).repeat(per_patient)
    score = 0.8 * own + 0.6 * rng.normal(size=len(has)) + has
    p = 1 / (1 + np.exp(-3 * score))
    return np.c_[1 - p, p], np.c_[~has, has], [f"p{i // per_patient}" for i in range(len(has))]


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("n", [1, 8, 9, 19, 20, 39, 100])
def test_the_threshold_is_numpy_s_conformal_quantile(n, coverage):
    """The definition: the quantile ceil((n + 1) coverage) / n of the scores, from above; 0 where that is over 1."""
    p, truth, patients = two_classes(np.random.default_rng(n), n)
    found = fit_prediction_sets(p, truth, patients, coverage)
    level = np.ceil(round((n + 1) * coverage, 9)) / n
    for c in range(2):
        scores = 1 - p[truth[:, c], c]
        expected = 1 - np.quantile(scores, level, method="inverted_cdf") if level <= 1 else 0.0
        assert found.thresholds[c] == pytest.approx(expected, abs=1e-12)
    assert found.n_patients == (n, n)
    assert (found.thresholds[0] > 0) == (n >= least_patients(coverage))


def test_least_patients():
    assert [least_patients(coverage) for coverage in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]


@pytest.mark.parametrize("per_patient", [1, 3])
def test_each_class_is_held_as_often_as_asked(per_patient):
    """Over cohorts the coverage of patients is Beta distributed about ceil(36 x .9) / 36 = 33 / 36."""
    rng = np.random.default_rng(0)
    reached = []
    for _ in range(300):
        sets = fit_prediction_sets(*two_classes(rng, 35, per_patient), 0.9)
        p, truth, _ = two_classes(rng, 300, per_patient)
        inside = (sets.contains(p) & truth).any(axis=1).reshape(2, 300, per_patient)
        reached.append(inside.all(axis=2).mean(axis=1))  # of all scans of a patient at once
    error = np.std(reached, axis=0) / 300**0.5
    assert np.abs(np.mean(reached, axis=0) - 33 / 36).max() < 4 * error.max()


def test_a_patient_counts_once_by_the_scan_least_like_the_class():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    truth = np.array([[True, False]] * 3 + [[False, True]])
    found = fit_prediction_sets(p, truth, ["a", "a", "b", "b"], 0.5)
    assert found.n_patients == (2, 1)
    assert found.thresholds == (0.6, 0.8)  # ceil(3 x .5) = 2nd largest of .6 and .7


def test_a_class_without_enough_patients_is_in_every_set():
    p, truth, patients = two_classes(np.random.default_rng(1), 8)
    sets = fit_prediction_sets(p, truth, patients, 0.9)
    assert sets.thresholds == (0.0, 0.0)
    assert sets.contains(np.array([[1.0, 0.0]])).all()


def test_a_set_grows_with_the_coverage_and_with_no_class_it_is_written_so():
    p, truth, patients = two_classes(np.random.default_rng(2), 200)
    smaller, larger = (fit_prediction_sets(p, truth, patients, coverage) for coverage in (0.6, 0.95))
    assert (larger.contains(p) >= smaller.contains(p)).all()
    sets = PredictionSets(coverage=0.9, thresholds=(0.3, 0.8), n_patients=(40, 40))
    names = ("benign", "malignant")
    assert sets.written(np.array([0.3, 0.7]), names) == "benign"
    assert sets.written(np.array([0.1, 0.9]), names) == "malignant"
    assert sets.written(np.array([0.25, 0.75]), names) == "{}"
    assert PredictionSets(coverage=0.9, thresholds=(0, 0.8), n_patients=(4, 40)).written(
        np.array([0.2, 0.8]), names
    ) == ("benign;malignant")


def test_the_model_card_tells_the_thresholds():
    sets = PredictionSets(coverage=0.9, thresholds=(0.3, 0), n_patients=(40, 5))
    rows = dict(model_card_rows(record(prediction_sets=sets)))
    words = "a set includes a class from this probability on: benign 0.300 (40 patients), malignant always (5 patients)"
    assert rows["Prediction sets"] == f"coverage 0.9 of each class; {words}"
    assert "Prediction sets" not in dict(model_card_rows(record()))


def test_sets_that_make_no_sense_are_refused():
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        PredictionSets(coverage=0.9, thresholds=(1.2, 0), n_patients=(1, 1))
    with pytest.raises(ValidationError, match="less than 1"):
        PredictionSets(coverage=1, thresholds=(0.2, 0), n_patients=(1, 1))
    assert not PredictionSets(coverage=0.9, thresholds=(0.2,), n_patients=(1,)).fits(2)
