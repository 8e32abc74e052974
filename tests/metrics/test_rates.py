import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_scores import findings, three_classes
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_score, recall_score

from med_transfer.metrics.rates import count, rate_of, share, weighted_balanced_accuracy, weighted_rates
from med_transfer.metrics.records.class_metrics import Counts

masks = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=40)
@given(masks)
def test_counts_and_rates_equal_scikit_learn(pairs):
    truth, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    tn, fp, fn, tp = confusion_matrix(truth, predicted, labels=[False, True]).ravel()
    counts = count(truth, predicted)
    assert counts == Counts(tp, fp, tn, fn)
    expected = {
        "sensitivity": recall_score(truth, predicted, zero_division=np.nan),
        "specificity": recall_score(~truth, ~predicted, zero_division=np.nan),
        "ppv": precision_score(truth, predicted, zero_division=np.nan),
        "npv": precision_score(~truth, ~predicted, zero_division=np.nan),
    }
    for name, theirs in expected.items():
        ours = share(*rate_of(name, counts))
        assert (ours is None and np.isnan(theirs)) or ours == pytest.approx(theirs)


def test_a_rate_of_nothing_is_undefined_and_not_zero():
    assert share(0, 0) is None
    assert share(0, 3) == 0.0
    assert share(3, 0) == 1.0


def test_weights_count_scans_as_often_as_repeating_them_does():
    data = three_classes(40)
    predicted = np.eye(3, dtype=bool)[data.probabilities.argmax(axis=1)]
    times = np.random.default_rng(1).integers(0, 4, size=40)
    weighted = weighted_rates(data.truth, predicted, times[None].astype(float))
    repeated = weighted_rates(
        np.repeat(data.truth, times, 0), np.repeat(predicted, times, 0), np.ones((1, times.sum()))
    )
    for name in weighted:
        np.testing.assert_allclose(weighted[name], repeated[name])


def test_balanced_accuracy_equals_scikit_learn():
    data = three_classes()
    predicted = np.eye(3, dtype=bool)[data.probabilities.argmax(axis=1)]
    ours = weighted_balanced_accuracy(data.truth, predicted, np.ones((1, 120)), multilabel=False)
    assert ours == pytest.approx(balanced_accuracy_score(data.truth.argmax(axis=1), predicted.argmax(axis=1)))


def test_balanced_accuracy_of_findings_is_the_mean_over_findings_and_cannot_be_won_by_calling_everything():
    data = findings()
    predicted = data.probabilities >= 0.5
    ones = np.ones((1, 120))
    each = [balanced_accuracy_score(data.truth[:, c], predicted[:, c]) for c in range(3)]
    assert weighted_balanced_accuracy(data.truth, predicted, ones, multilabel=True) == pytest.approx(np.mean(each))
    everything = np.ones_like(predicted)
    assert weighted_balanced_accuracy(data.truth, everything, ones, multilabel=True) == pytest.approx(0.5)


def test_a_class_without_scans_is_left_out_of_the_balanced_accuracy():
    truth = np.eye(3, dtype=bool)[[0, 0, 1, 1]]
    predicted = np.eye(3, dtype=bool)[[0, 2, 1, 1]]
    assert weighted_balanced_accuracy(truth, predicted, np.ones((1, 4)), multilabel=False) == pytest.approx(0.75)
