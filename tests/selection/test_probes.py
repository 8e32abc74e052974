"""Probes against direct use of scikit-learn; folds never divide a patient; resampling is paired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from med_transfer.errors import UsageError
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import patient_folds
from med_transfer.selection.probes import linear_probe, nearest_neighbours

LABELS = Labels(("a", "b", "c"))
FINDINGS = Labels(("effusion", "nodule"), multilabel=True)
PATIENTS = [f"p{number // 2}" for number in range(60)]


def cohort(n_features=6, seed=0, signal=1.0):
    rng = np.random.default_rng(seed)
    classes = (np.arange(60) // 2) % 3
    features = rng.normal(size=(60, n_features)) * np.linspace(0.1, 10, n_features)
    features[:, :3] += signal * np.eye(3)[classes]
    truth = np.eye(3, dtype=bool)[classes]
    return features, truth, patient_folds(truth, PATIENTS, 5)


@pytest.mark.parametrize("n_features", [6, 200])
def test_linear_probe_is_scikit_learns(n_features):
    features, truth, folds = cohort(n_features, signal=0.4)
    narrow = FunctionTransformer(lambda table: table / np.sqrt(n_features))
    regression = LogisticRegression(C=10, class_weight="balanced", max_iter=5000, tol=1e-8)
    model = make_pipeline(StandardScaler(), narrow, regression)
    expected = cross_val_predict(model, features, truth.argmax(1), cv=PredefinedSplit(folds), method="predict_proba")
    judged = linear_probe(features, truth, PATIENTS, folds, LABELS)
    assert judged.probabilities == pytest.approx(expected, abs=1e-4)
    assert judged.macro_auc == pytest.approx(roc_auc_score(truth, expected, average="macro"))
    called = judged.probabilities.argmax(1)
    assert judged.balanced_sensitivity == pytest.approx(balanced_accuracy_score(truth.argmax(1), called))


def test_nearest_neighbours_are_scikit_learns():
    features, truth, folds = cohort()
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(5))
    expected = cross_val_predict(model, features, truth.argmax(1), cv=PredefinedSplit(folds), method="predict_proba")
    judged = nearest_neighbours(features, truth, PATIENTS, folds, LABELS)
    assert judged.probabilities == pytest.approx(expected)
    assert judged.macro_auc == pytest.approx(roc_auc_score(truth, expected, average="macro"))


def test_findings_are_fitted_one_by_one():
    features, _, _ = cohort()
    truth = np.stack([features[:, 0] > 0, np.arange(60) % 4 < 2], axis=1)
    folds = patient_folds(truth, PATIENTS, 5)
    both = linear_probe(features, truth, PATIENTS, folds, FINDINGS)
    alone = Labels(("effusion",), multilabel=True)
    first = linear_probe(features, truth[:, :1], PATIENTS, folds, alone)
    assert both.probabilities[:, 0] == pytest.approx(first.probabilities[:, 0])
    assert first.macro_auc == pytest.approx(roc_auc_score(truth[:, 0], both.probabilities[:, 0]))


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_order_of_scans_does_not_matter(seed):
    features, truth, folds = cohort(seed=seed)
    order = np.random.default_rng(seed).permutation(60)
    mixed = [PATIENTS[i] for i in order]
    for probe in (linear_probe, nearest_neighbours):
        one = probe(features, truth, PATIENTS, folds, LABELS)
        other = probe(features[order], truth[order], mixed, folds[order], LABELS)
        assert other.macro_auc == pytest.approx(one.macro_auc, abs=1e-6)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_shifting_or_scaling_a_feature_does_not_matter(seed):
    features, truth, folds = cohort(seed=seed)
    rng = np.random.default_rng(seed)
    moved = features * rng.uniform(0.01, 100, 6) + rng.normal(size=6)
    one, other = (linear_probe(table, truth, PATIENTS, folds, LABELS) for table in (features, moved))
    assert other.probabilities == pytest.approx(one.probabilities, abs=1e-4)


def test_informative_features_rank_above_noise():
    informative, truth, folds = cohort(seed=1, signal=8.0)
    noise = ortho_group.rvs(60, random_state=0)[:, :6]
    for probe in (linear_probe, nearest_neighbours):
        better, worse = (probe(table, truth, PATIENTS, folds, LABELS) for table in (informative, noise))
        difference, error = better.minus(worse)
        assert difference == pytest.approx(better.macro_auc - worse.macro_auc)
        assert difference > 2 * error


def test_constant_features_tell_nothing():
    _, truth, folds = cohort()
    for probe in (linear_probe, nearest_neighbours):
        judged = probe(np.full((60, 4), 3.0), truth, PATIENTS, folds, LABELS)
        assert (judged.macro_auc, judged.standard_error) == (0.5, 0)


def test_labels_that_have_nothing_to_do_with_the_features_are_not_foretold():
    """In-sample, 200 features tell 60 scans apart without error: no patient may be judged by a model that knew him."""
    features, truth, folds = cohort(200, seed=3, signal=0.0)
    judged = linear_probe(features, truth, PATIENTS, folds, LABELS)
    assert 0.3 < judged.macro_auc < 0.7


def test_a_model_has_no_difference_from_itself_and_its_error_follows_the_patients():
    features, truth, folds = cohort(signal=1.0)
    judged = linear_probe(features, truth, PATIENTS, folds, LABELS)
    assert judged.minus(judged) == (0, 0)
    rng = np.random.default_rng(0)
    pairs = np.arange(60).reshape(30, 2)  # two scans a patient
    draws = []
    for _ in range(400):
        drawn = pairs[rng.integers(30, size=30)].ravel()
        if truth[drawn].any(0).all():
            draws.append(roc_auc_score(truth[drawn], judged.probabilities[drawn], average="macro"))
    assert judged.standard_error == pytest.approx(np.std(draws), rel=0.2)


def test_folds_hold_whole_patients_of_every_class():
    _, truth, folds = cohort()
    assert set(folds) == set(range(5))
    for fold in range(5):
        assert not {PATIENTS[i] for i in np.flatnonzero(folds == fold)} & {
            PATIENTS[i] for i in np.flatnonzero(folds != fold)
        }
        assert truth[folds == fold].sum(axis=0) == pytest.approx([4, 4, 4])


def test_what_cannot_be_probed():
    features, truth, folds = cohort()
    with pytest.raises(UsageError, match="a patient in two folds; expected all scans of a patient in one"):
        linear_probe(features, truth, PATIENTS, np.arange(60) % 5, LABELS)
    with pytest.raises(UsageError, match="one fold; expected at least two"):
        linear_probe(features, truth, PATIENTS, np.zeros(60), LABELS)
    with pytest.raises(UsageError, match="59 features, 60 truths, 60 patients, 60 folds; expected one of each a scan"):
        linear_probe(features[1:], truth, PATIENTS, folds, LABELS)
    with pytest.raises(UsageError, match="30 patients for 31 folds"):
        patient_folds(truth, PATIENTS, 31)
