import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from med_transfer.metrics.baselines import (
    cross_validate_baselines,
    cross_validate_handcrafted,
    fit_handcrafted,
    prevalence_only,
)
from med_transfer.metrics.cross_validation import held_out_folds
from med_transfer.metrics.records.shortcuts import ACQUISITION_BASELINE
from med_transfer.metrics.shortcuts import Development, cross_validate_acquisition
from med_transfer.predictions.labels import Labels


def feature_table(n=90, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.eye(3, dtype=bool)[rng.choice(3, n)]
    return truth @ rng.normal(size=(3, 5)) * 2 + rng.normal(size=(n, 5)) * [1, 1000, 1, 0.001, 1], truth


def test_prevalence_is_the_share_of_each_class_in_training():
    truth = np.eye(2, dtype=bool)[[0, 0, 0, 1]]
    np.testing.assert_allclose(prevalence_only(truth, 3), [[0.75, 0.25]] * 3)


def test_handcrafted_learns_and_gives_probabilities():
    features, truth = feature_table()
    probabilities = fit_handcrafted(features[:60], truth[:60], features[60:], 0)
    assert probabilities.shape == (30, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert roc_auc_score(truth[60:], probabilities) > 0.8


def test_handcrafted_bears_missing_infinite_constant_and_empty_features():
    features, truth = feature_table()
    features[::7, 0], features[::5, 1], features[:, 2], features[:60, 3] = np.nan, np.inf, 1.0, np.nan
    probabilities = fit_handcrafted(features[:60], truth[:60], features[60:], 0)
    assert np.isfinite(probabilities).all()


def test_handcrafted_gives_a_class_without_training_scans_no_probability():
    features, truth = feature_table()
    rows = ~truth[:, 1]
    probabilities = fit_handcrafted(features[rows], truth[rows], features, 0)
    assert (probabilities[:, 1] == 0).all()
    only = fit_handcrafted(features[truth[:, 2]], truth[truth[:, 2]], features, 0)
    np.testing.assert_array_equal(only, np.tile([0.0, 0.0, 1.0], (90, 1)))


def test_handcrafted_for_findings_fits_each_on_its_own():
    features, truth = feature_table()
    several = np.stack([truth[:, 0], truth[:, 0] | truth[:, 1], np.zeros(90, dtype=bool)], axis=1)
    probabilities = fit_handcrafted(features[:60], several[:60], features[60:], 0, multilabel=True)
    assert roc_auc_score(several[60:, :2], probabilities[:, :2]) > 0.8
    assert (probabilities[:, 2] == 0).all()


def test_handcrafted_within_a_cohort_is_scikit_learns_cross_validation_by_patient():
    features, truth = feature_table()
    patients = [f"p{number // 2}" for number in range(90)]
    folds = held_out_folds(truth, patients, Labels(("a", "b", "c")))
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000))
    expected = cross_val_predict(model, features, truth.argmax(axis=1), cv=folds, method="predict_proba")
    np.testing.assert_allclose(cross_validate_handcrafted(features, truth, folds), expected, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 7])
def test_handcrafted_repeats(seed):
    features, truth = feature_table()
    first, second = (fit_handcrafted(features[:60], truth[:60], features[60:], seed) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_acquisition_is_a_baseline_within_a_cohort_where_it_differs_and_classes_have_ten_patients():
    features, truth = feature_table()
    patients, labels = [f"p{number}" for number in range(90)], Labels(("a", "b", "c"))
    scans = Development([{"kernel": "soft" if a else "hard"} for a in truth[:, 0]], truth, patients, labels)
    baselines, shortcuts = cross_validate_baselines(features, scans)
    assert set(baselines) == {"handcrafted", ACQUISITION_BASELINE}
    probabilities, expected = cross_validate_acquisition(scans)
    np.testing.assert_array_equal(baselines[ACQUISITION_BASELINE], probabilities)
    assert shortcuts == expected
    alike = Development([{"kernel": "soft"}] * 90, truth, patients, labels)
    assert set(cross_validate_baselines(features, alike)[0]) == {"handcrafted"}
    rows = np.sort(np.concatenate([np.flatnonzero(of_class)[: 9 + (c > 0)] for c, of_class in enumerate(truth.T)]))
    few = Development([scans.facts[row] for row in rows], truth[rows], patients[: len(rows)], labels)
    assert cross_validate_baselines(features[rows], few) == ({}, None)
