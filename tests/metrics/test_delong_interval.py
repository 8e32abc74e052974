"""The variance of one AUC: a published example, sums over all pairs, and many simulated cohorts."""

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import t

from med_transfer.metrics.auc import auc
from med_transfer.metrics.delong import auc_interval, macro_auc_interval


def test_the_published_example_of_109_ct_ratings():
    """Ratings 1 to 5 of 58 normal and 51 abnormal CTs: Hanley & McNeil 1982, table I.

    Stata's manual prints for them, by DeLong's method ([R] roctab): area 0.8932, standard error 0.0307, 95 % interval
    0.83295 to 0.95339 (not on the logit scale).
    """
    ratings = np.arange(1.0, 6)
    score = np.r_[np.repeat(ratings, [33, 6, 6, 11, 2]), np.repeat(ratings, [3, 2, 2, 11, 33])]
    truth = np.arange(109) >= 58
    _, freedom = obuchowski(truth, score, one_each(109))
    value = auc(truth, score)
    error = variance_in(auc_interval(truth, score, one_each(109)), value, freedom) ** 0.5
    assert value == pytest.approx(0.8932, abs=5e-5)
    assert error == pytest.approx(0.0307, abs=5e-5)
    assert (value - 1.959964 * error, value + 1.959964 * error) == pytest.approx((0.83295, 0.95339), abs=5e-6)


def one_each(n):
    return [f"p{i:03d}" for i in range(n)]


def clustered_scores(seed, n, per_patient, *, same_truth=False):
    """Scans of a patient score alike; ``same_truth``: and are all cases or none."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.random(-(-n // per_patient)) < 0.4, per_patient)[:n] if same_truth else rng.random(n) < 0.4
    patients = [f"p{i // per_patient}" for i in range(n)]
    own = np.repeat(rng.normal(size=-(-n // per_patient)), per_patient)[:n]
    return truth, np.round(own + rng.normal(size=n) + truth, 1), patients


def obuchowski(truth, score, patients):
    """The paper's S10, S01 and S11 by sums over all pairs of scans; Satterthwaite's freedom of the first two."""
    kernel = (score[truth][:, None] > score[~truth]) + 0.5 * (score[truth][:, None] == score[~truth])
    of_cases, of_others = np.array(patients)[truth], np.array(patients)[~truth]
    area, names = kernel.mean(), sorted(set(patients))
    v10 = {name: kernel.mean(axis=1)[of_cases == name] for name in names}
    v01 = {name: kernel.mean(axis=0)[of_others == name] for name in names}
    m, n = kernel.shape
    i10, i01, i = len(set(of_cases)), len(set(of_others)), len(names)
    s10 = i10 / ((i10 - 1) * m) * sum((v10[k].sum() - len(v10[k]) * area) ** 2 for k in names)
    s01 = i01 / ((i01 - 1) * n) * sum((v01[k].sum() - len(v01[k]) * area) ** 2 for k in names)
    both = sum((v10[k].sum() - len(v10[k]) * area) * (v01[k].sum() - len(v01[k]) * area) for k in names)
    freedom = (s10 / m + s01 / n) ** 2 / ((s10 / m) ** 2 / (i10 - 1) + (s01 / n) ** 2 / (i01 - 1))
    return s10 / m + s01 / n + 2 * i / (i - 1) * both / (m * n), freedom


def variance_in(interval, area, freedom):
    """Of the AUC, from the width of its interval."""
    low, high = logit(interval)
    assert (low + high) / 2 == pytest.approx(logit(area))
    return ((high - low) / 2 * area * (1 - area) / t.ppf(0.975, freedom)) ** 2


@pytest.mark.parametrize("per_patient", [1, 2, 5])
def test_the_interval_is_student_s_in_log_odds_with_the_paper_s_variance(per_patient):
    truth, score, patients = clustered_scores(per_patient, 60, per_patient)
    variance, freedom = obuchowski(truth, score, patients)
    assert variance_in(auc_interval(truth, score, patients), auc(truth, score), freedom) == pytest.approx(variance)


def test_with_one_scan_a_patient_the_variance_is_delong_s():
    truth, score, patients = clustered_scores(3, 50, 1)
    kernel = (score[truth][:, None] > score[~truth]) + 0.5 * (score[truth][:, None] == score[~truth])
    expected = kernel.mean(axis=1).var(ddof=1) / truth.sum() + kernel.mean(axis=0).var(ddof=1) / (~truth).sum()
    _, freedom = obuchowski(truth, score, patients)
    assert variance_in(auc_interval(truth, score, patients), kernel.mean(), freedom) == pytest.approx(expected)


def test_the_variance_over_patients_is_that_of_new_patients():
    variances, areas = [], []
    for seed in range(400):
        truth, score, patients = clustered_scores(seed, 90, 3, same_truth=True)
        areas.append(auc(truth, score))
        variances.append(
            variance_in(auc_interval(truth, score, who), areas[-1], obuchowski(truth, score, who)[1])
            for who in (patients, one_each(90))
        )
    over_patients, over_scans = np.mean([list(both) for both in variances], axis=0)
    assert over_patients == pytest.approx(np.var(areas), rel=0.15)
    assert over_scans < 0.7 * np.var(areas)


def test_one_patient_on_a_side_or_no_error_at_all_has_no_interval():
    truth, score = np.array([True, True, False, False, False]), np.array([1.0, 3.0, 0.0, 2.0, 4.0])
    assert auc_interval(truth, score, ["a", "a", "b", "c", "d"]) is None
    assert auc_interval(truth, score, ["a", "b", "c", "c", "c"]) is None
    low, high = auc_interval(truth, score, ["a", "b", "c", "d", "d"])
    assert 0 < low < auc(truth, score) < high < 1
    assert auc_interval(truth, truth.astype(float), one_each(5)) is None
    assert auc_interval(truth, 1.0 - truth, one_each(5)) is None


def test_the_macro_interval_is_student_s_with_delong_s_variance_in_log_odds():
    """Of two classes and one scan a patient the paper's sums say it all; freedom by Satterthwaite."""
    truth, score, patients = clustered_scores(6, 24, 1)
    kernel = (score[truth][:, None] > score[~truth]) + 0.5 * (score[truth][:, None] == score[~truth])
    shares = np.array([kernel.mean(axis=side).var(ddof=1) / kernel.shape[1 - side] for side in (0, 1)])
    freedom = shares.sum() ** 2 / (shares**2 / (np.array(kernel.shape[::-1]) - 1)).sum()
    half = t.ppf(0.975, freedom) * shares.sum() ** 0.5 / (kernel.mean() * (1 - kernel.mean()))
    table, columns = np.column_stack([~truth, truth]), np.column_stack([-score, score])
    interval = macro_auc_interval(table, columns, patients, multilabel=False)
    assert logit(interval) == pytest.approx(logit(kernel.mean()) + np.array([-half, half]))
    assert macro_auc_interval(table, table.astype(float), patients, multilabel=False) is None
