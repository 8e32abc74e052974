"""The linear probe against scikit-learn's own logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from med_transfer.model.linear_head import fit_head, fit_probe

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(3.0, [1, 20, 0.1, 5, 1], size=(90, 5))
CLASSES = (FEATURES[:, 0] + RANDOM.normal(size=90) > 3.5).astype(int) + (FEATURES[:, 1] > 25)
TRUTH = np.eye(3, dtype=bool)[CLASSES]


def reference(target, c=0.1, weights="balanced"):
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


def test_the_strength_is_the_one_that_validation_likes_best_and_a_tie_goes_to_the_strongest():
    asked = []

    def score(logits):
        asked.append(logits)
        return [0.5, 0.9, 0.9][len(asked) - 1]

    head = fit_probe(FEATURES, TRUTH, (10.0, 0.01, 0.1), score, FEATURES[:7])
    assert head.inverse_strength == 0.1
    assert [len(logits) for logits in asked] == [7, 7, 7]
    flat = fit_probe(FEATURES, TRUTH, (10.0, 0.01), lambda logits: 0.5, FEATURES)
    assert flat.inverse_strength == 0.01


def test_an_undefined_score_takes_the_strongest():
    assert fit_probe(FEATURES, TRUTH, (1.0, 0.1), lambda logits: float("nan"), FEATURES).inverse_strength == 0.1
