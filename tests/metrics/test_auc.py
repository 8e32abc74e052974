import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_scores import findings, three_classes
from sklearn.metrics import average_precision_score, roc_auc_score

from med_transfer.metrics.auc import (
    auc,
    class_aucs,
    weighted_auc,
    weighted_average_precision,
    weighted_macro_auc,
    weighted_micro_auc,
    weighted_partial_auc,
)

# Few distinct scores, so that ties are common.
truth_and_score = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40)


@settings(max_examples=40)
@given(truth_and_score)
def test_auc_equals_scikit_learn_with_ties(pairs):
    truth, score = np.array([t for t, _ in pairs]), np.array([s / 5 for _, s in pairs])
    if truth.all() or not truth.any():
        assert auc(truth, score) is None
    else:
        assert auc(truth, score) == pytest.approx(roc_auc_score(truth, score))


def test_weighted_auc_equals_scikit_learn_with_sample_weights():
    rng = np.random.default_rng(0)
    truth, score = rng.random(60) < 0.4, rng.integers(0, 10, 60) / 10
    weights = rng.integers(0, 4, size=(25, 60)).astype(float)
    expected = [roc_auc_score(truth, score, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auc(truth, score, weights), expected)


def test_a_draw_without_cases_is_undefined():
    truth, score = np.array([True, False, False]), np.array([0.9, 0.1, 0.2])
    values = weighted_auc(truth, score, np.array([[1.0, 1, 1], [0, 2, 1]]))
    assert values[0] == 1
    assert np.isnan(values[1])


def test_macro_auc_equals_scikit_learn_and_leaves_out_classes_without_cases():
    data, ones = three_classes(), np.ones((1, 120))
    expected = roc_auc_score(data.truth, data.probabilities, average="macro")
    assert weighted_macro_auc(data.truth, data.probabilities, ones) == pytest.approx(expected)
    without = data.truth.copy()
    without[:, 2] = False
    assert np.isnan(class_aucs(without, data.probabilities, ones)[0, 2])
    expected = roc_auc_score(without[:, :2], data.probabilities[:, :2], average="macro")
    assert weighted_macro_auc(without, data.probabilities, ones) == pytest.approx(expected)


@settings(max_examples=40)
@given(truth_and_score)
def test_partial_auc_and_average_precision_equal_scikit_learn_with_ties(pairs):
    truth, score = np.array([t for t, _ in pairs]), np.array([s / 5 for _, s in pairs])
    ones = np.ones((1, len(pairs)))
    if truth.any():
        expected = average_precision_score(truth, score)
        assert weighted_average_precision(truth, score, ones) == pytest.approx(expected)
    if truth.any() and not truth.all():
        expected = roc_auc_score(truth, score, max_fpr=0.2)
        assert weighted_partial_auc(truth, score, ones) == pytest.approx(expected)
        assert weighted_partial_auc(truth, score, ones, 0.5) == pytest.approx(roc_auc_score(truth, score, max_fpr=0.5))


def test_partial_auc_and_average_precision_equal_scikit_learn_with_sample_weights():
    rng = np.random.default_rng(0)
    truth, score = rng.random(60) < 0.4, rng.integers(0, 10, 60) / 10
    weights = rng.integers(0, 4, size=(25, 60)).astype(float)
    expected = [roc_auc_score(truth, score, sample_weight=row, max_fpr=0.2) for row in weights]
    np.testing.assert_allclose(weighted_partial_auc(truth, score, weights), expected)
    expected = [average_precision_score(truth, score, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_average_precision(truth, score, weights), expected)


def test_they_are_undefined_where_a_draw_lacks_cases_or_others():
    truth, score = np.array([True, False, False]), np.array([0.9, 0.1, 0.2])
    weights = np.array([[1.0, 1, 1], [0, 2, 1], [3, 0, 0]])
    np.testing.assert_array_equal(weighted_partial_auc(truth, score, weights), [1, np.nan, np.nan])
    np.testing.assert_array_equal(weighted_average_precision(truth, score, weights), [1, np.nan, 1])


@pytest.mark.parametrize("simulate", [three_classes, findings])
def test_micro_auc_equals_scikit_learn(simulate):
    data = simulate()
    weights = np.random.default_rng(1).integers(0, 3, size=(4, 120)).astype(float)
    expected = [roc_auc_score(data.truth, data.probabilities, average="micro", sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_micro_auc(data.truth, data.probabilities, weights), expected)
