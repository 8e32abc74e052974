"""Likelihood ratios against scipy's relative risk, which has the same form: a ratio of two proportions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats.contingency import relative_risk

from med_transfer.metrics.predictive_values import likelihood_ratio
from med_transfer.metrics.records.class_metrics import Counts

cell = st.integers(1, 60)


@given(cell, cell, cell, cell)
def test_both_ratios_and_their_limits_equal_scipy(tp, fp, tn, fn):
    counts = Counts(tp, fp, tn, fn)
    for which, hits, others_hits in (("positive", tp, fp), ("negative", fn, tn)):
        theirs = relative_risk(hits, tp + fn, others_hits, fp + tn)
        ratio = likelihood_ratio("a", counts, which)
        assert ratio.value == pytest.approx(theirs.relative_risk)
        assert ratio.ci95 == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_a_ratio_of_zero_has_a_lower_limit_of_zero():
    ratio = likelihood_ratio("a", Counts(10, 3, 17, 0), "negative")
    assert (ratio.value, ratio.ci95[0]) == (0, 0)
    half_added = relative_risk(1, 22, 35, 42).relative_risk  # 0.5 / 11 over 17.5 / 21, in twice the numbers
    assert 0 < half_added < ratio.ci95[1] < 1


def test_a_ratio_without_bound_is_null_and_tells_its_lower_limit():
    ratio = likelihood_ratio("a", Counts(8, 0, 20, 2), "positive")
    assert (ratio.value, ratio.ci95) == (None, None)
    expected = "no scan of another class was called a, so the ratio has no upper bound; its lower limit is 2.06"
    assert ratio.reason == expected
    error = (1 / 8.5 - 1 / 11 + 1 / 0.5 - 1 / 21) ** 0.5
    assert (8.5 / 11) / (0.5 / 21) * math.exp(-1.96 * error) == pytest.approx(2.06, abs=0.005)
    every = likelihood_ratio("a", Counts(8, 20, 0, 2), "negative")
    assert every.reason.startswith("every scan of another class was called a")


@pytest.mark.parametrize(
    ("counts", "which", "reason"),
    [
        (Counts(0, 2, 8, 0), "positive", "no scan of class a among the evaluated scans"),
        (Counts(3, 0, 0, 2), "negative", "no scan of another class than a among the evaluated scans"),
        (Counts(0, 0, 8, 3), "positive", "no evaluated scan was called a"),
        (Counts(3, 8, 0, 0), "negative", "every evaluated scan was called a"),
    ],
)
def test_an_undefined_ratio_is_null_with_its_reason(counts, which, reason):
    ratio = likelihood_ratio("a", counts, which)
    assert (ratio.value, ratio.ci95, ratio.reason) == (None, None, reason)


def test_calling_everything_is_a_ratio_of_one_with_a_width():
    ratio = likelihood_ratio("a", Counts(5, 8, 0, 0), "positive")
    assert ratio.value == 1
    assert ratio.ci95[0] < 0.9 < 1.1 < ratio.ci95[1]
