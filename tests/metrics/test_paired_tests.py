"""DeLong against its definition, McNemar against the binomial, Holm by hand, and invalid input."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from med_transfer.metrics.auc import auc
from med_transfer.metrics.binomial import newcombe_paired
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.delong import delong, placements
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.paired_tests import corrected, delong_margin_test, delong_test, holm, mcnemar, mcnemar_p
from med_transfer.predictions.labels import Labels

TWO, THREE = Labels(("a", "b")), Labels(("a", "b", "c"))


def kernel(case: float, other: float) -> float:
    return float(case > other) + 0.5 * float(case == other)


def direct_delong(truth: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Difference and variance by the paper's sums over all pairs: S10 / m + S01 / n of two correlated AUCs."""
    positives, negatives = np.flatnonzero(truth), np.flatnonzero(~truth)
    components = []
    for score in (first, second):
        pairs = np.array([[kernel(score[i], score[j]) for j in negatives] for i in positives])
        components.append((pairs.mean(axis=1), pairs.mean(axis=0), pairs.mean()))
    (v10, v01, first_auc), (w10, w01, second_auc) = components
    s10, s01 = np.cov(v10, w10), np.cov(v01, w01)
    covariance = s10 / len(positives) + s01 / len(negatives)
    contrast = np.array([1, -1])
    return first_auc - second_auc, float(contrast @ covariance @ contrast)


def binary(rng: np.random.Generator, n: int, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = rng.permutation(np.arange(n) % 3 == 0)
    scores = rng.normal(size=(2, n)) + truth * np.array([[1.2], [0.6]])
    return truth, *(np.round(scores, 0 if ties else 9))


def two_columns(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = 1 / (1 + np.exp(-score))
    return np.column_stack([~truth, truth]), np.column_stack([1 - p, p])


@pytest.mark.parametrize(("ties", "seed"), product((False, True), range(4)))
def test_two_classes_give_delongs_test(ties, seed):
    truth, first, second = binary(np.random.default_rng(seed), 40, ties)
    table, first_columns = two_columns(truth, first)
    _, second_columns = two_columns(truth, second)
    auc_difference = delong(table, first_columns, second_columns, multilabel=False)
    assert auc_difference is not None
    difference, variance = direct_delong(truth, first, second)
    assert (auc_difference.value, auc_difference.variance) == pytest.approx((difference, variance))
    assert auc_difference.p_value == pytest.approx(2 * norm.cdf(-abs(difference) / variance**0.5))


# Albumin, total protein, K-G score and outcome (0: no benefit from surgery) of 43 patients with ovarian cancer: the
# complete cases of DeLong et al. 1988, as in the example of ROCCONTRAST in the SAS/STAT manual, PROC LOGISTIC.
OVARIAN = """3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
    3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
    2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
    3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
    3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
    3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1"""


@pytest.mark.parametrize(
    ("column", "area", "difference", "error", "p"),
    [(0, 0.7366, 0.0108, 0.0953, 0.9102), (1, 0.6478, -0.0780, 0.1046, 0.4561)],
)
def test_the_published_example_of_three_scores_in_ovarian_cancer(column, area, difference, error, p):
    """Albumin and total protein against the K-G score (area 0.7258): area, difference, standard error and p."""
    patients = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4)
    truth, kg, score = patients[:, 3] == 0, patients[:, 2], -patients[:, column]
    assert (auc(truth, kg), auc(truth, score)) == pytest.approx((0.7258, area), abs=5e-5)
    table = np.column_stack([~truth, truth])
    auc_difference = delong(table, np.column_stack([-score, score]), np.column_stack([-kg, kg]), multilabel=False)
    assert auc_difference is not None
    assert (auc_difference.value, auc_difference.variance**0.5) == pytest.approx((difference, error), abs=5e-5)
    assert auc_difference.p_value == pytest.approx(p, abs=5e-5)


def test_numbers_worked_out_by_hand():
    """Cases 3, 5, 2 and others 1, 2, 4, 0 by the first model; by the second the same but that the 5 became a 0."""
    truth = np.array([True, True, True, False, False, False, False])
    first, second = np.array([3, 5, 2, 1, 2, 4, 0.0]), np.array([3, 0, 2, 1, 2, 4, 0.0])
    # V10: 3 -> 3/4, 5 -> 1, 2 -> (1 + .5 + 0 + 1)/4 = 5/8; the second's 0 -> 1/8.
    assert placements(truth, first)[:3] == pytest.approx([3 / 4, 1, 5 / 8])
    assert placements(truth, second)[:3] == pytest.approx([3 / 4, 1 / 8, 5 / 8])
    # V01 of 1, 2, 4, 0: first 1, 5/6, 1/3, 1; second 2/3, 1/2, 0, 5/6.
    assert placements(truth, first)[3:] == pytest.approx([1, 5 / 6, 1 / 3, 1])
    assert placements(truth, second)[3:] == pytest.approx([2 / 3, 1 / 2, 0, 5 / 6])
    auc_difference = delong(*_columns(truth, first, second), multilabel=False)
    # D10 = 0, 7/8, 0: mean 7/24, variance 49/192; D01 = 1/3, 1/3, 1/3, 1/6: variance 1/144.
    assert auc_difference is not None
    assert (auc_difference.value, auc_difference.variance) == pytest.approx((7 / 24, 49 / 192 / 3 + 1 / 144 / 4))


def _columns(truth, first, second):
    table, first_columns = two_columns(truth, first)
    return table, first_columns, two_columns(truth, second)[1]


def test_placements_average_to_the_auc():
    truth, score, _ = binary(np.random.default_rng(9), 50, ties=True)
    placement = placements(truth, score)
    assert placement[truth].mean() == pytest.approx(auc(truth, score))
    assert placement[~truth].mean() == pytest.approx(auc(truth, score))


def three_classes(rng: np.random.Generator, n: int, skill: float, other_skill: float) -> tuple[np.ndarray, ...]:
    truth = np.eye(3, dtype=bool)[rng.permutation(np.arange(n) % 3)]
    shared = rng.normal(size=(n, 3))

    def model(skill: float) -> np.ndarray:
        logits = shared + rng.normal(size=(n, 3)) + skill * truth
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    return truth, model(skill), model(other_skill)


def test_the_macro_variance_is_that_over_new_cohorts():
    """The variance of the difference over many cohorts, and how often equal models are called different."""
    rng, differences, variances, alarms = np.random.default_rng(3), [], [], 0
    for _ in range(400):
        auc_difference = delong(*three_classes(rng, 60, 1.0, 1.0), multilabel=False)
        assert auc_difference is not None
        assert auc_difference.p_value is not None
        differences.append(auc_difference.value)
        variances.append(auc_difference.variance)
        alarms += auc_difference.p_value < 0.05
    assert np.mean(variances) == pytest.approx(np.var(differences), rel=0.2)
    assert 0.02 <= alarms / 400 <= 0.09


def test_delong_agrees_with_the_patient_bootstrap_on_three_classes():
    truth, first_probabilities, second_probabilities = three_classes(np.random.default_rng(1), 150, 1.5, 0.8)
    first = LabelledPredictions.of(truth, first_probabilities, [f"p{i}" for i in range(150)], THREE)
    second = first.scored_by(second_probabilities)
    auc_difference = delong(truth, first_probabilities, second_probabilities, multilabel=False)
    interval = paired_difference(first, second, PatientBootstrap(first.patients)).macro_auc
    assert auc_difference is not None
    assert interval.ci95 is not None
    assert interval.value == pytest.approx(auc_difference.value)
    error = auc_difference.variance**0.5
    assert np.subtract(*interval.ci95[::-1]) / 2 / 1.96 == pytest.approx(error, rel=0.15)
    tested = delong_test(first, second)
    assert tested.p_value == auc_difference.p_value
    assert tested.found == f"difference {auc_difference.value:+.3f}, standard error {error:.3f}"


def test_findings_are_tested_over_all_scans():
    truth = np.random.default_rng(0).random((60, 2)) < 0.4
    scores = np.random.default_rng(1).random((2, 60, 2)) * 0.5 + 0.5 * truth * np.array([1, 0.3])[:, None, None]
    auc_difference = delong(truth, scores[0], scores[1], multilabel=True)
    assert auc_difference is not None
    by_finding = [direct_delong(truth[:, c], scores[0, :, c], scores[1, :, c]) for c in range(2)]
    assert auc_difference.value == pytest.approx(np.mean([value for value, _ in by_finding]))
    independent = sum(variance for _, variance in by_finding) / 4
    assert auc_difference.variance == pytest.approx(independent, rel=0.5)


def test_equal_models_are_not_different():
    truth, first_probabilities, _ = three_classes(np.random.default_rng(2), 30, 1.0, 1.0)
    auc_difference = delong(truth, first_probabilities, first_probabilities, multilabel=False)
    assert auc_difference is not None
    assert (auc_difference.value, auc_difference.variance, auc_difference.p_value) == (0, 0, 1)


def predictions_of(truth: np.ndarray, right: list[bool], patients: list[str] | None = None) -> LabelledPredictions:
    predicted = np.where(np.array(right)[:, None], truth, ~truth).astype(float)
    return LabelledPredictions.of(truth, 0.1 + 0.8 * predicted, patients or [f"p{i}" for i in range(len(truth))], TWO)


def test_mcnemar_counts_the_scans_that_one_alone_calls_right():
    truth = np.eye(2, dtype=bool)[[0, 1] * 6]
    first = predictions_of(truth, [True] * 9 + [False] * 3)
    second = predictions_of(truth, [True] * 2 + [False] * 7 + [True] + [False] * 2)
    paired_test = mcnemar(first, second)
    assert paired_test.p_value == pytest.approx(binomtest(7, 8).pvalue)
    assert paired_test.found == "scans that only this run calls right: 7; that only the reference does: 1"
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(0, 6) == pytest.approx(2 / 64)


def test_tests_are_not_given_where_patients_have_several_scans():
    truth = np.eye(2, dtype=bool)[[0, 1] * 3]
    first = predictions_of(truth, [True] * 6, ["p", "p", "q", "r", "s", "t"])
    second = predictions_of(truth, [False] * 6, ["p", "p", "q", "r", "s", "t"])
    for paired_test in (mcnemar(first, second), delong_test(first, second)):
        assert paired_test.p_value is None
        assert "some patients have several scans" in paired_test.reason


@pytest.mark.parametrize("which", [0, 1])
def test_tests_are_not_given_where_patients_taught_the_networks_of_others(which):
    """Their intervals are wider by the root of 2 there: a p value beside one that holds 0 would say the contrary."""
    truth = np.eye(2, dtype=bool)[[0, 1] * 6]
    pair = [predictions_of(truth, [True] * 12), predictions_of(truth, [True, False] * 6)]
    assert mcnemar(*pair).p_value < 0.05
    pair[which] = replace(pair[which], out_of_fold=True)
    for paired_test in (mcnemar(*pair), delong_test(*pair), delong_margin_test(*pair, 0.1)):
        assert paired_test.p_value is None
        assert "trained on patients whom other networks predicted" in paired_test.reason


def test_a_class_with_one_scan_has_no_delong():
    truth = np.eye(2, dtype=bool)[[0, 1, 1, 1]]
    paired_test = delong_test(predictions_of(truth, [True] * 4), predictions_of(truth, [True, False, True, True]))
    assert (paired_test.p_value, paired_test.reason) == (None, "too few scans: some class has one or none")


def test_holm_by_hand():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.6 x 1, each at least the one before it.
    assert holm([0.02, 0.6, 0.01, 0.03]) == pytest.approx([0.06, 0.6, 0.04, 0.06])
    assert holm([0.4, None, 0.3]) == [pytest.approx(0.6), None, pytest.approx(0.6)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_correction_counts_the_runs():
    truth = np.eye(2, dtype=bool)[[0, 1] * 6]
    paired_test = mcnemar(predictions_of(truth, [True] * 12), predictions_of(truth, [False] * 8 + [True] * 4))
    (alone,) = corrected([paired_test])
    three = corrected([paired_test, paired_test, paired_test])
    assert alone.p_holm == paired_test.p_value == pytest.approx(2 / 256)
    assert [test.p_holm for test in three] == pytest.approx([6 / 256] * 3)


def test_differences_of_sensitivity_are_those_of_the_resampled_scans():
    truth, first_probabilities, second_probabilities = three_classes(np.random.default_rng(5), 45, 1.5, 0.5)
    patients = [f"p{i // 2}" for i in range(45)]
    first = LabelledPredictions.of(truth, first_probabilities, patients, THREE)
    bootstrap = PatientBootstrap(first.patients, n_boot=300, seed=4)
    difference = paired_difference(first, first.scored_by(second_probabilities), bootstrap)
    right = [(p.argmax(1) == truth.argmax(1)).astype(float) for p in (first_probabilities, second_probabilities)]

    def by_scan(weights: np.ndarray) -> np.ndarray:
        return np.array([[np.average((right[0] - right[1])[k], weights=w[k]) for k in truth.T] for w in weights])

    draws = bootstrap.distribution(by_scan)
    for c, name in enumerate(THREE.names):
        estimate = difference.sensitivity[name]
        assert estimate.value == pytest.approx(by_scan(np.ones((1, 45)))[0, c])
        low, high = np.percentile(draws[:, c], [2.5, 97.5])
        assert estimate.ci95[0] <= low + 1e-9
        assert estimate.ci95[1] >= high - 1e-9
    assert difference.balanced_accuracy.value == pytest.approx(
        np.mean([e.value for e in difference.sensitivity.values()])
    )


def test_two_patients_do_not_show_that_a_network_finds_more():
    """One misses one scan of the first patient and both of the second; resamples lie between 0.5 and 1."""
    truth, patients = np.eye(2, dtype=bool)[[0] * 20 + [1] * 4], [*map(str, range(20)), *"AABB"]
    all_right = predictions_of(truth, [True] * 24, patients)
    worse = predictions_of(truth, [True] * 20 + [False, True, False, False], patients)
    difference = paired_difference(all_right, worse, PatientBootstrap(patients, 300))
    assert difference.sensitivity["b"].value == 0.75
    assert difference.sensitivity["b"].excludes_zero == 0


def test_a_class_that_both_call_alike_has_no_interval_when_patients_have_several_scans():
    truth, patients = np.eye(2, dtype=bool)[[0, 1] * 6], [f"p{i // 2}" for i in range(12)]
    difference = paired_difference(
        predictions_of(truth, [True] * 12, patients),
        predictions_of(truth, [True, False] * 6, patients),
        PatientBootstrap(patients),
    )
    alike = difference.sensitivity["a"]
    assert (alike.value, alike.ci95) == (0, None)
    assert "called alike, or too few" in alike.reason


@pytest.mark.parametrize(
    ("cells", "interval"), [((36, 12, 2, 0), (0.0569, 0.3404)), ((36, 14, 0, 0), (0.1528, 0.4167))]
)
def test_newcombe_s_interval_for_pairs_as_the_source_prints_it(cells, interval):
    """Newcombe 1998, Stat Med 17:2635, table II, method 10."""
    assert newcombe_paired(*cells) == pytest.approx(interval, abs=6e-5)


@pytest.mark.parametrize("cells", [(20, 0, 0, 0), (0, 5, 5, 0), (3, 0, 0, 9), (0, 0, 7, 0), (1, 0, 0, 0)])
def test_newcombe_s_interval_has_a_width_stays_inside_and_turns_with_the_models(cells):
    both, only_first, only_second, neither = cells
    low, high = newcombe_paired(*cells)
    difference = (only_first - only_second) / sum(cells)
    assert -1 <= low <= difference <= high <= 1
    assert high - low > 0.05
    assert newcombe_paired(both, only_second, only_first, neither) == pytest.approx((-high, -low))
    assert newcombe_paired(0, 0, 0, 0) is None


def test_a_sensitivity_of_one_scan_a_patient_is_compared_by_its_pairs():
    truth = np.eye(2, dtype=bool)[[0, 1] * 10]
    first, second = predictions_of(truth, [True] * 20), predictions_of(truth, [True, False] * 4 + [True, True] * 6)
    sensitivity = paired_difference(first, second, PatientBootstrap(first.patients, 50)).sensitivity
    assert sensitivity["a"].ci95 == newcombe_paired(10, 0, 0, 0)
    assert (sensitivity["b"].value, sensitivity["b"].ci95) == (pytest.approx(0.4), newcombe_paired(6, 4, 0, 0))
    assert "Newcombe" in sensitivity["b"].method
