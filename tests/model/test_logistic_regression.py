"""Small logistic regressions against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from med_transfer.model.logistic_regression import Regression

N_SCANS = 60


def scans(n_classes: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes that overlap, and the classes, of which the last is rare."""
    rng = np.random.default_rng(n_classes)
    target = np.minimum(rng.geometric(0.5, N_SCANS) - 1, n_classes - 1)
    return rng.normal(size=(N_SCANS, n_features)) + (target[:, None] == np.arange(n_features) % n_classes), target


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("n_features", [1, 5, 90])
@pytest.mark.parametrize(("strength", "balanced"), [(1e-3, True), (1.0, False), (1.0, True), (100.0, False)])
def test_it_is_that_of_scikit_learn(n_classes, n_features, strength, balanced):
    features, target = scans(n_classes, n_features)
    weights = "balanced" if balanced else None
    expected = LogisticRegression(C=strength, class_weight=weights, max_iter=2000).fit(features, target)
    found = Regression(strength, balanced).fit(features, target)
    np.testing.assert_allclose(found.weight, expected.coef_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.bias, expected.intercept_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.predict_proba(features), expected.predict_proba(features), rtol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_equal_rows_of_a_sparse_table_tie(n_classes):
    features, target = scans(n_classes, 7)
    table = (features > 0.5).astype(float)
    found = Regression().fit(csr_matrix(table), target).predict_proba(csr_matrix(table))
    expected = LogisticRegression(class_weight="balanced").fit(csr_matrix(table), target).predict_proba(table)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    distinct = np.unique(table, axis=0)
    assert len(distinct) < N_SCANS
    for row in distinct:
        assert len(np.unique(found[(table == row).all(axis=1)], axis=0)) == 1
