"""The linear probe against scikit-learn's own logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_info, threadpool_limits

from med_transfer.model.linear_head import fit_head, fit_predict, fit_probe, mean_head, probe_model
from med_transfer.predictions.patient_folds import patient_folds

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(3.0, [1, 20, 0.1, 5, 1], size=(90, 5))
CLASSES = (FEATURES[:, 0] + RANDOM.normal(size=90) > 3.5).astype(int) + (FEATURES[:, 1] > 25)
TRUTH = np.eye(3, dtype=bool)[CLASSES]


def reference(target, c=0.1, weights: str | None = "balanced"):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight=weights, max_iter=2000))
    return model.fit(FEATURES, target).predict_proba(FEATURES)


@pytest.mark.parametrize("balanced", [True, False])
def test_classes(balanced):
    head = fit_head(FEATURES, TRUTH, 0.1, multilabel=False, balanced=balanced)
    expected = reference(CLASSES, weights="balanced" if balanced else None)
    np.testing.assert_allclose(softmax(head.logits(FEATURES), axis=1), expected, rtol=1e-6)


def test_two_classes():
    target = np.minimum(CLASSES, 1)
    head = fit_head(FEATURES, np.eye(2, dtype=bool)[target], 0.1, multilabel=False, balanced=True)
    np.testing.assert_allclose(softmax(head.logits(FEATURES), axis=1), reference(target), rtol=1e-6)


def test_a_constant_feature_has_no_say_also_where_its_mean_is_rounded():
    constant = np.concatenate([FEATURES, np.full((90, 1), 0.1), np.full((90, 1), 0.0)], axis=1)
    assert constant[:, 5].std() > 0  # by rounding alone
    head = fit_head(constant, TRUTH, 0.1, multilabel=False, balanced=True)
    np.testing.assert_allclose(head.weight[:, 5:], 0, atol=1e-12)
    np.testing.assert_allclose(softmax(head.logits(constant), axis=1), reference(CLASSES), rtol=1e-6)


def test_findings_are_one_regression_each():
    truth = np.stack([FEATURES[:, 0] > 3, FEATURES[:, 3] > 4, np.zeros(90, bool)], axis=1)
    head = fit_head(FEATURES, truth, 0.1, multilabel=True, balanced=True)
    found = expit(head.logits(FEATURES))
    for finding in range(2):
        np.testing.assert_allclose(found[:, finding], reference(truth[:, finding])[:, 1], rtol=1e-6)
    assert found[:, 2].max() < 1e-6  # never seen


def test_a_class_without_a_training_scan_is_never_called():
    truth = np.eye(4, dtype=bool)[CLASSES]
    head = fit_head(FEATURES, truth, 0.1, multilabel=False, balanced=True)
    probabilities = softmax(head.logits(FEATURES), axis=1)
    assert probabilities[:, 3].max() < 1e-6
    np.testing.assert_allclose(probabilities[:, :3], reference(CLASSES), rtol=1e-5)


STRENGTHS = (1e-4, 0.01, 1.0, 100.0)
PATIENTS = [f"p{number // 2}" for number in range(90)]  # two scans each


@pytest.mark.parametrize("balanced", [True, False])
def test_the_strength_is_the_one_of_least_cross_entropy_across_folds_of_patients(balanced):
    """Against scikit-learn's own cross-validation on the same division."""
    folds = PredefinedSplit(patient_folds(TRUTH, PATIENTS, 5))
    weights = compute_sample_weight("balanced", CLASSES) if balanced else None
    losses = []
    for strength in STRENGTHS:
        model = probe_model(strength, balanced=balanced)
        said = cross_val_predict(model, FEATURES, CLASSES, cv=folds, method="predict_proba")
        losses.append(log_loss(CLASSES, said, sample_weight=weights))
    head = fit_probe(FEATURES, TRUTH, PATIENTS, STRENGTHS[::-1], multilabel=False, balanced=balanced)
    assert head.inverse_strength == STRENGTHS[int(np.argmin(losses))]
    alone = fit_head(FEATURES, TRUTH, head.inverse_strength, multilabel=False, balanced=balanced)
    np.testing.assert_array_equal(head.weight, alone.weight)  # learned from all of them


def test_of_findings_the_strength_is_that_of_the_mean_over_findings():
    truth = np.stack([FEATURES[:, 0] > 3, FEATURES[:, 3] > 9], axis=1)
    folds, losses = PredefinedSplit(patient_folds(truth, PATIENTS, 5)), []
    for strength in STRENGTHS:
        said = [
            cross_val_predict(probe_model(strength, balanced=True), FEATURES, finding, cv=folds, method="predict_proba")
            for finding in truth.T
        ]
        pairs = zip(truth.T, said, strict=True)
        losses.append(np.mean([log_loss(t, p, sample_weight=compute_sample_weight("balanced", t)) for t, p in pairs]))
    head = fit_probe(FEATURES, truth, PATIENTS, STRENGTHS, multilabel=True, balanced=True)
    assert head.inverse_strength == STRENGTHS[int(np.argmin(losses))]


def test_noise_and_a_single_patient_take_the_strongest():
    noise = np.random.default_rng(1).normal(size=FEATURES.shape)
    for features, patients in ((noise, PATIENTS), (FEATURES, ["p"] * 90)):
        head = fit_probe(features, TRUTH, patients, STRENGTHS, multilabel=False, balanced=True)
        assert head.inverse_strength == STRENGTHS[0]


def n_threads() -> int:
    return max(pool["num_threads"] for pool in threadpool_info())


class CountsThreads(BaseEstimator):
    def fit(self, features, target):
        self.n_threads_ = n_threads()
        return self

    def predict_proba(self, features):
        return np.full((len(features), 3), 1 / 3)


def test_small_fits_take_one_thread_whatever_the_machine_gives(monkeypatch):
    class Counted(LogisticRegression):
        def fit(self, *args, **kwargs):
            seen.append(n_threads())
            return super().fit(*args, **kwargs)

    seen, model = [], CountsThreads()
    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", Counted)
    with threadpool_limits(2):
        before = n_threads()
        fit_predict(model, FEATURES, TRUTH, FEATURES, multilabel=False)
        fit_head(FEATURES, TRUTH, 0.1, multilabel=False, balanced=True)
        assert (before, model.n_threads_, seen, n_threads()) == (2, 1, [1], 2)


def test_the_mean_of_two_heads_reads_both_parts_and_halves_the_sum_of_their_logits():
    parts = FEATURES[:, :2], FEATURES[:, 2:]
    heads = [
        fit_head(part, TRUTH, strength, multilabel=False, balanced=True)
        for part, strength in zip(parts, (0.1, 10.0), strict=True)
    ]
    both = mean_head(heads)
    expected = (heads[0].logits(parts[0]) + heads[1].logits(parts[1])) / 2
    np.testing.assert_allclose(both.logits(FEATURES), expected)
    assert both.inverse_strength == pytest.approx(1.0)
    alone = mean_head(heads[:1])
    np.testing.assert_array_equal(alone.weight, heads[0].weight)
    assert alone.inverse_strength == pytest.approx(0.1)
