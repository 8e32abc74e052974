"""Verdicts by the position of the interval, and DeLong's one-sided test against sums over all pairs."""

import numpy as np
import pytest
from scipy.stats import norm

from med_transfer.errors import UsageError
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.delong import AucDifference, delong
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.non_inferiority import non_inferiority
from med_transfer.metrics.paired_tests import delong_margin_test, delong_test
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.predictions.labels import Labels


@pytest.mark.parametrize(
    ("interval", "verdict", "said"),
    [
        ((0.01, 0.10), "superior", "the whole interval lies above 0"),
        ((-0.04, 0.03), "non-inferior", "the interval stays above -0.05"),
        ((-0.04, -0.01), "non-inferior", "though worse: it lies wholly below 0"),
        ((-0.06, 0.20), "not shown", "the interval reaches below -0.05"),
        ((-0.05, 0.20), "not shown", "the interval reaches below -0.05"),
        ((-0.20, -0.06), "inferior", "the whole interval lies below -0.05"),
    ],
)
def test_the_interval_decides(interval, verdict, said):
    difference = Estimate(value=sum(interval) / 2, ci95=interval, method="made up")
    comparison = non_inferiority(difference, 0.05, n_patients=60)
    assert (comparison.verdict, comparison.margin) == (verdict, 0.05)
    assert comparison.sentence.startswith(f"{verdict}: ")
    assert said in comparison.sentence


@pytest.mark.parametrize("n_patients", [2, 5])
def test_few_patients_all_right_against_all_wrong_show_nothing(n_patients):
    truth = np.eye(2, dtype=bool)[np.arange(n_patients) % 2]
    patients = [f"p{i}" for i in range(n_patients)]
    right = LabelledPredictions.of(truth, 0.1 + 0.8 * truth, patients, Labels(("a", "b")))
    difference = paired_difference(right, right.scored_by(0.9 - 0.8 * truth), PatientBootstrap(right.patients))
    for one in (difference.macro_auc, difference.balanced_accuracy):
        comparison = non_inferiority(one, 0.05, n_patients)
        assert comparison.verdict == "not shown"


def test_without_an_interval_nothing_is_shown_and_the_reason_is_given():
    alike = Estimate(value=0.0, ci95=None, method="made up", reason="every resample agrees")
    assert non_inferiority(alike, 0.1, n_patients=60).sentence == "not shown: every resample agrees"


def test_two_perfect_models_on_few_scans_are_not_shown_to_be_alike():
    truth = np.eye(2, dtype=bool)[[0, 1] * 5]
    predictions = LabelledPredictions.of(truth, 0.1 + 0.8 * truth, [f"p{i}" for i in range(10)], Labels(("a", "b")))
    difference = paired_difference(
        predictions, predictions.scored_by(0.2 + 0.6 * truth), PatientBootstrap(predictions.patients)
    ).macro_auc
    assert difference.ci95 == (0, 0)
    comparison = non_inferiority(difference, 0.05, n_patients=10)
    assert (comparison.verdict, "every resample agrees" in comparison.sentence) == ("not shown", True)


@pytest.mark.parametrize("margin", [0, -0.05, 1, 5, float("nan")])
def test_a_margin_lies_between_0_and_1(margin):
    alike = Estimate(value=0.0, ci95=(-0.01, 0.01), method="made up")
    with pytest.raises(UsageError, match=r"margin: .*; expected a difference between 0 and 1, as 0\.05"):
        non_inferiority(alike, margin, n_patients=60)


def two_models(seed, skill, other_skill, n=80):
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.arange(n) % 2 == 0)
    shared = rng.normal(size=n)
    scores = [1 / (1 + np.exp(-(shared + rng.normal(size=n) + s * truth))) for s in (skill, other_skill)]
    table, patients = np.column_stack([~truth, truth]), [f"p{i}" for i in range(n)]
    first, second = (np.column_stack([1 - p, p]) for p in scores)
    predictions = LabelledPredictions.of(table, first, patients, Labels(("a", "b")))
    return predictions, predictions.scored_by(second)


def test_delong_against_a_margin_is_the_shifted_one_sided_test():
    first, second = two_models(1, 1.5, 1.6)
    auc_difference = delong(first.truth, first.probabilities, second.probabilities, multilabel=False)
    tested = delong_margin_test(first, second, 0.1)
    assert tested.p_value == pytest.approx(norm.sf((auc_difference.value + 0.1) / auc_difference.variance**0.5))
    assert "less than 0.1 below, one-sided" in tested.method
    towards_zero = delong_margin_test(first, second, 1e-12).p_value
    two_sided = delong_test(first, second).p_value
    assert min(towards_zero, 1 - towards_zero) == pytest.approx(two_sided / 2)


def test_delong_and_the_bootstrap_agree_on_a_margin():
    """The interval's lower limit is the margin at which the one-sided p is about 0.025."""
    first, second = two_models(2, 1.5, 1.5, n=300)
    low, _ = paired_difference(first, second, PatientBootstrap(first.patients)).macro_auc.ci95
    assert delong_margin_test(first, second, -low).p_value == pytest.approx(0.025, abs=0.015)


def test_one_model_against_itself_and_several_scans_a_patient_have_no_test():
    first, _ = two_models(3, 1, 1, n=20)
    itself = delong_margin_test(first, first, 0.1)
    assert (itself.p_value, "every placement agrees" in itself.reason) == (None, True)
    twice = LabelledPredictions.of(first.truth, first.probabilities, ["p"] * 2 + list(first.patients[2:]), first.labels)
    assert "some patients have several scans" in delong_margin_test(twice, twice, 0.1).reason
    assert AucDifference(0.1, 0.0).p_above(-0.1) is None


def test_models_that_are_worse_by_the_margin_are_seldom_called_non_inferior():
    """True AUCs 0.856 and 0.760 (normal scores): at a margin of their distance the one-sided p is uniform."""
    alarms = 0
    margin = float(norm.cdf(1.5 / np.sqrt(2)) - norm.cdf(1.0 / np.sqrt(2)))
    rng, truth, n = np.random.default_rng(0), np.arange(100) % 2 == 0, 100
    table = np.column_stack([~truth, truth])
    for _ in range(400):
        shared = rng.normal(size=n) * np.sqrt(0.5)
        worse, better = (shared + np.sqrt(0.5) * rng.normal(size=n) + d * truth for d in (1.0, 1.5))
        auc_difference = delong(
            table, np.column_stack([-worse, worse]), np.column_stack([-better, better]), multilabel=False
        )
        alarms += auc_difference.p_above(-margin) < 0.025
    assert alarms / 400 <= 0.05
