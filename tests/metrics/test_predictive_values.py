"""Predictive values at a stated prevalence: Bayes' rule, and limits against a numerical delta method."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import expit, logit
from scipy.stats import norm

from med_transfer.errors import UsageError
from med_transfer.metrics.config import checked_prevalence, read_prevalence
from med_transfer.metrics.predictive_values import predictive_value, predictive_value_in
from med_transfer.metrics.rates import rate_of, share
from med_transfer.metrics.records.class_metrics import Counts
from med_transfer.predictions.labels import Labels

# Apolipoprotein E epsilon 4 and Alzheimer's disease: Mercaldo, Lau & Zhou 2007, table VIII.
APOE = Counts(true_positive=240, false_positive=87, true_negative=288, false_negative=178)


def bayes(rates, prevalence):
    sensitivity, specificity = rates
    true_calls, false_calls = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_rest, false_rest = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return true_calls / (true_calls + false_calls), true_rest / (true_rest + false_rest)


@pytest.mark.parametrize("prevalence", [0.03, 0.2, 0.5])
@pytest.mark.parametrize("which", ["ppv", "npv"])
def test_values_and_limits_equal_the_delta_method(which, prevalence):
    rates, number = np.array([240 / 418, 288 / 375]), ("ppv", "npv").index(which)
    variances = rates * (1 - rates) / np.array([418, 375])
    slope = approx_fprime(rates, lambda r: logit(bayes(r, prevalence)[number]), 1e-7)
    half = norm.ppf(0.975) * np.sqrt(slope**2 @ variances)
    value = bayes(rates, prevalence)[number]
    estimate = predictive_value(which, prevalence, "a", APOE)
    assert estimate.value == pytest.approx(value)
    assert estimate.ci95 == pytest.approx((expit(logit(value) - half), expit(logit(value) + half)), rel=1e-5)


def test_at_the_sample_s_own_prevalence_they_are_the_sample_s():
    own = 418 / 793
    for which in ("ppv", "npv"):
        assert predictive_value(which, own, "a", APOE).value == pytest.approx(share(*rate_of(which, APOE)))


def test_limits_cover_as_often_as_they_say():
    rng, truth, held = np.random.default_rng(0), bayes((0.8, 0.9), 0.1)[0], 0
    for tp, tn in zip(rng.binomial(40, 0.8, 1000), rng.binomial(60, 0.9, 1000), strict=True):
        low, high = predictive_value("ppv", 0.1, "a", Counts(tp, 60 - tn, tn, 40 - tp)).ci95
        held += low <= truth <= high
    assert held / 1000 == pytest.approx(0.95, abs=0.025)


def test_a_rate_of_one_keeps_an_interval_and_says_that_it_was_adjusted():
    estimate = predictive_value("ppv", 0.1, "a", Counts(10, 0, 30, 5))
    assert estimate.value == 1
    assert estimate.ci95[0] < 0.8
    assert estimate.ci95[1] == 1
    assert "two successes and two failures added" in estimate.method
    assert "added" not in predictive_value("ppv", 0.1, "a", APOE).method


@pytest.mark.parametrize(
    ("counts", "which", "reason"),
    [
        (Counts(0, 2, 8, 0), "ppv", "no scan of class a among the evaluated scans"),
        (Counts(3, 0, 0, 2), "npv", "no scan of another class than a among the evaluated scans"),
        (Counts(0, 0, 8, 3), "ppv", "no evaluated scan was called a"),
        (Counts(3, 8, 0, 0), "npv", "every evaluated scan was called a"),
    ],
)
def test_undefined_is_null_with_its_reason(counts, which, reason):
    estimate = predictive_value(which, 0.1, "a", counts)
    assert (estimate.value, estimate.ci95, estimate.reason) == (None, None, reason)


def test_tables_give_what_counts_give():
    cells = {name: np.array([[float(n)]]) for name, n in vars(APOE).items()}
    assert predictive_value_in("ppv", 0.03, cells) == pytest.approx(predictive_value("ppv", 0.03, "a", APOE).value)
    assert predictive_value_in("npv", 0.03, cells) == pytest.approx(predictive_value("npv", 0.03, "a", APOE).value)


def test_words_become_prevalences():
    assert read_prevalence(["malignant=0.1", "a=b=0.25"]) == {"malignant": 0.1, "a=b": 0.25}
    for word in ("malignant", "malignant=often", "malignant=10", "malignant=0", "=0.1", "malignant=nan"):
        with pytest.raises(UsageError, match=r"--prevalence: .*; expected CLASS=SHARE with a share between 0 and 1"):
            read_prevalence([word])
    with pytest.raises(UsageError, match="--prevalence: malignant twice; expected each class once"):
        read_prevalence(["malignant=0.1", "malignant=0.2"])


def test_a_prevalence_that_cannot_be_is_refused():
    two, findings = Labels(("a", "b")), Labels(("a", "b"), multilabel=True)
    with pytest.raises(UsageError, match=r"prevalence: c is no class; expected one of a, b"):
        checked_prevalence({"a": 0.1, "c": 0.2}, two)
    with pytest.raises(UsageError, match=r"prevalence: shares that sum to 1.2; expected at most 1"):
        checked_prevalence({"a": 0.6, "b": 0.6}, two)
    assert checked_prevalence({"a": 0.6, "b": 0.6}, findings) == {"a": 0.6, "b": 0.6}


@pytest.mark.parametrize(
    "counts", [Counts(10, 5, 30, 0), Counts(8, 35, 0, 2), Counts(10, 0, 30, 5), Counts(10, 35, 0, 0)]
)
def test_limits_at_a_rate_of_zero_or_one_are_those_of_two_successes_and_two_failures_more(counts):
    tp, fp, tn, fn = counts.true_positive, counts.false_positive, counts.true_negative, counts.false_negative

    def proportion(hits, others):
        more = norm.ppf(0.975) ** 2 if 0 in (hits, others) else 0.0
        total = hits + others + more
        return (hits + more / 2) / total, total

    (p, n), (q, m) = proportion(tp, fn), proportion(fp, tn)
    centre, half = np.log(p / q * 0.1 / 0.9), norm.ppf(0.975) * np.sqrt((1 - p) / (p * n) + (1 - q) / (q * m))
    estimate = predictive_value("ppv", 0.1, "a", counts)
    value = tp / (tp + fn) * 0.1 / (tp / (tp + fn) * 0.1 + fp / (fp + tn) * 0.9)
    assert estimate.value == pytest.approx(value)
    limits = min(expit(centre - half), value), max(expit(centre + half), value)
    assert estimate.ci95 == pytest.approx(limits, rel=1e-6)
    assert "two successes and two failures added" in estimate.method
