"""Subgroups against SciPy and statsmodels, and their test with and without a difference."""

import numpy as np
import pytest
from scipy import stats
from simulated_scores import findings, three_classes

from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.grouping import UNKNOWN, Grouping
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import Bootstrap
from med_transfer.metrics.subgroups import permutation_test, subgroup_metrics, subgroup_tests
from med_transfer.predictions.labels import Labels

TWO = Labels(("healthy", "ill"))


def scored_calls(truth, right, patients=None):
    """Scans of two classes with calls that are right or wrong as told."""
    truth, right = np.asarray(truth), np.asarray(right, dtype=bool)
    predicted = np.where(right, truth, 1 - truth)
    patients = patients or [f"p{number}" for number in range(len(truth))]
    return LabelledPredictions.of(np.eye(2, dtype=bool)[truth], np.eye(2)[predicted] * 0.8 + 0.1, patients, TWO)


def drawn_calls(rng, n, sensitivity):
    """Truth and right calls with a sensitivity for each of two subgroups, and the subgroup of each scan."""
    groups, truth = rng.integers(2, size=n), rng.integers(2, size=n)
    return truth, rng.random(n) < np.asarray(sensitivity)[groups], groups.astype(str).tolist()


def test_a_subgroup_of_ten_patients_is_measured_and_tested_and_one_of_nine_is_not():
    truth, groups = [0, 1] * 15, ["a"] * 10 + ["b"] * 11 + ["c"] * 9
    predictions, grouping = scored_calls(truth, [True, True, False] * 10), Grouping.of("site", groups)
    found = subgroup_metrics(predictions, grouping, EvaluationConfig())
    assert {name: one.balanced_accuracy.value is not None for name, one in found.items()} == {
        "a": True,
        "b": True,
        "c": False,
    }
    assert found["c"].macro_auc.reason == "fewer than 10 patients"
    test = subgroup_tests(predictions, [grouping])["site"]
    assert (test.compared, test.fewest_patients, test.too_small) == (["a", "b"], 10, ["c"])


def test_statistic_is_the_sum_of_pearson_s_over_the_classes():
    truth, right, groups = drawn_calls(np.random.default_rng(1), 90, (0.8, 0.5))
    statistic, _ = permutation_test(scored_calls(truth, right), groups, 10, 0)
    expected = 0.0
    for class_index in (0, 1):
        table = stats.contingency.crosstab(np.array(groups)[truth == class_index], right[truth == class_index]).count
        expected += stats.chi2_contingency(table, correction=False).statistic
    assert statistic == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_p_is_scipy_s_for_one_class(seed):
    rng = np.random.default_rng(seed)
    right = rng.random(60) < np.where(np.arange(60) < 25, 0.75, 0.5)
    truth, groups = np.ones(60, dtype=int), np.where(np.arange(60) < 25, "a", "b").tolist()
    _, ours = permutation_test(scored_calls(truth, right), groups, 9999, 0)
    theirs = stats.permutation_test(
        (right[:25], right[25:]),
        lambda a, b: abs(np.mean(a) - np.mean(b)),
        n_resamples=9999,
        rng=seed,
        alternative="greater",
    )
    assert ours == pytest.approx(theirs.pvalue, abs=0.02)


def test_p_within_true_class_is_the_chi_squared_distribution_s_in_large_samples():
    truth, right, groups = drawn_calls(np.random.default_rng(5), 1200, (0.72, 0.66))
    statistic, p_value = permutation_test(scored_calls(truth, right), groups, 4000, 0)
    assert p_value == pytest.approx(stats.chi2.sf(statistic, df=2), abs=0.02)


def test_a_subgroup_of_the_harder_class_is_not_taken_for_one_that_fails():
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1], 200)
    groups = np.where(rng.random(400) < np.where(truth == 1, 0.9, 0.1), "clinic", "screening").tolist()
    right = rng.random(400) < np.where(truth == 1, 0.5, 0.95)  # the class decides, the subgroup does not
    assert stats.fisher_exact(stats.contingency.crosstab(groups, right).count).pvalue < 1e-6
    assert permutation_test(scored_calls(truth, right), groups, 499, 0)[1] > 0.05


def test_without_a_difference_p_is_uniform_and_with_one_it_is_small():
    rng = np.random.default_rng(0)

    def p_values(sensitivity, n_tests):
        drawn = [drawn_calls(rng, 80, sensitivity) for _ in range(n_tests)]
        return np.array([permutation_test(scored_calls(t, r), g, 199, 0)[1] for t, r, g in drawn])

    same = p_values((0.7, 0.7), 200)
    assert (same < 0.05).mean() < 0.1
    assert stats.kstest(same, "uniform").pvalue > 0.01
    assert np.median(p_values((0.9, 0.5), 20)) < 0.01


def test_scans_that_a_patient_repeats_are_no_evidence():
    truth, right, groups = drawn_calls(np.random.default_rng(3), 40, (0.8, 0.55))
    alone = permutation_test(scored_calls(truth, right), groups, 1999, 0)[1]
    patients = [f"p{number}" for number in range(40)] * 5
    repeated = scored_calls(np.tile(truth, 5), np.tile(right, 5), patients)
    assert permutation_test(repeated, groups * 5, 1999, 0)[1] == alone


def test_holm_over_columns_is_that_of_statsmodels():
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    rng = np.random.default_rng(8)
    truth, right, groups = drawn_calls(rng, 200, (0.8, 0.6))
    columns = {"planted": groups} | {f"random {n}": rng.integers(3, size=200).astype(str) for n in range(4)}
    tests = subgroup_tests(scored_calls(truth, right), [Grouping.of(*column) for column in columns.items()])
    expected = multipletests([test.p_value for test in tests.values()], method="holm")[1]
    assert [test.p_holm for test in tests.values()] == pytest.approx(expected)
    assert [column for column, test in tests.items() if test.differ] == ["planted"]


def test_of_several_findings_sensitivity_and_specificity_are_compared():
    data = findings(400)
    groups = np.where(np.arange(400) % 2, "a", "b")
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)
    worse = np.where((groups == "b")[:, None], 1 - data.probabilities, data.probabilities)
    assert permutation_test(predictions, groups.tolist(), 499, 0)[1] > 0.05
    assert permutation_test(predictions.scored_by(worse), groups.tolist(), 499, 0)[1] == pytest.approx(1 / 500)


def test_the_record_says_what_was_compared_and_how():
    data, rng = three_classes(120), np.random.default_rng(0)
    columns = {
        "sex": rng.choice(["f", "m"], 120).tolist(),
        "scanner": ["A"] * 110 + ["B"] * 5 + ["C"] * 5,
        "site": ["x"] * 60 + [UNKNOWN] * 60,
    }
    metrics = compute_metrics(
        LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels),
        resampling=Bootstrap(n_boot=100),
        subgroups=columns,
    )
    sex, scanner, site = (metrics.subgroup_tests[name] for name in columns)
    assert sex.compared == ["f", "m"]
    assert "2000 permutations of the patients' subgroups within true class (seed 0)" in sex.method
    assert sex.p_holm == sex.p_value  # the only column that is tested
    assert (scanner.too_small, scanner.p_value) == (["B", "C"], None)
    assert scanner.reason == "fewer than two subgroups of at least 10 patients"
    assert site.compared == ["x"]
    again = compute_metrics(
        LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels),
        resampling=Bootstrap(n_boot=100),
        subgroups=columns,
    )
    assert again == metrics


def test_one_class_in_each_subgroup_can_be_no_difference():
    truth = np.repeat([0, 1], 20)
    (test,) = subgroup_tests(scored_calls(truth, np.arange(40) % 3 > 0), [Grouping.of("column", truth)]).values()
    assert test.reason == "no class with right and wrong calls lies in several subgroups"
