"""Three intervals of a proportion against scipy and statsmodels, and the sample size against a search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest
from statsmodels.stats.proportion import proportion_confint

from med_transfer.metrics.binomial import (
    BINOMIAL,
    BINOMIAL_NAMES,
    clopper_pearson,
    jeffreys,
    trials_for_width,
    wilson,
)
from med_transfer.metrics.class_metrics import sample_size

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_wilson_and_clopper_pearson_equal_scipy(hits_and_total):
    hits, total = hits_and_total
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = binomtest(hits, total).proportion_ci(method=method)
        assert ours(hits, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(counts)
def test_all_three_equal_statsmodels(hits_and_total):
    hits, total = hits_and_total
    names = {"wilson": "wilson", "clopper-pearson": "beta", "jeffreys": "jeffreys"}
    for method, theirs in names.items():
        low, high = proportion_confint(hits, total, method=theirs)
        if method == "jeffreys":  # as Brown, Cai and DasGupta advise, and statsmodels does not
            low, high = 0.0 if hits == 0 else low, 1.0 if hits == total else high
        assert BINOMIAL[method](hits, total) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("method", BINOMIAL)
def test_no_interval_of_nothing_and_none_without_width(method):
    interval = BINOMIAL[method]
    assert interval(0, 0) is None
    low, high = interval(10, 10)
    assert (low < 0.8, high) == (True, 1.0)
    assert interval(0, 10) == pytest.approx((0, 1 - low))
    assert method.split("-")[0] in BINOMIAL_NAMES[method].lower()


def test_clopper_pearson_never_covers_less_than_it_says():
    n, hits = 20, np.arange(21)
    limits = np.array([clopper_pearson(k, n) for k in hits])
    for truth in np.linspace(0.02, 0.98, 49):
        assert binom.pmf(hits, n, truth)[(limits[:, 0] <= truth) & (truth <= limits[:, 1])].sum() >= 0.95


def test_jeffreys_is_the_equal_tailed_posterior():
    assert jeffreys(7, 10) == pytest.approx(tuple(beta.interval(0.95, 7.5, 3.5)))


@pytest.mark.parametrize("width", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("proportion", [0.0, 0.1, 0.5, 0.83, 1.0])
def test_the_number_for_a_width_is_the_least_that_reaches_it(proportion, width):
    def width_of(n):
        low, high = wilson(proportion * n, n)
        return high - low

    n = trials_for_width(proportion, width)
    assert width_of(n) <= width + 1e-9
    assert width_of(n - 1) > width


def test_what_a_sample_shows_is_said_in_words():
    size = sample_size("sensitivity", "malignant", 20 / 24, 24, 0.1)
    low, high = binomtest(20, 24).proportion_ci(method="wilson")
    assert size.width == pytest.approx(high - low)
    assert size.n_needed == trials_for_width(20 / 24, 0.1) == 213
    assert size.n_needed_at_worst == trials_for_width(low, 0.1) > size.n_needed
    assert size.sentence == (
        "With 24 patients labelled malignant, a sensitivity of 0.83 has an interval of 0.64 to 0.93; for a width of "
        "0.1 about 213 are needed if it stays there, and up to 350 if it is 0.64."
    )
    assert sample_size("sensitivity", "malignant", 1.0, 1, 0.1).sentence.startswith("With 1 patient labelled malignant")
    assert "patients not labelled malignant" in sample_size("specificity", "malignant", 0.5, 30, 0.1).sentence
    assert sample_size("sensitivity", "malignant", None, 0, 0.1) is None
    assert sample_size("sensitivity", "malignant", 0.5, 10, 0.1).n_needed_at_worst == trials_for_width(0.5, 0.1)
