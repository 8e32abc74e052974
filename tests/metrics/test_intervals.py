import time

import numpy as np
import pytest
from scipy.stats import bootstrap, norm
from simulated_scores import three_classes

from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.intervals import (
    PatientBootstrap,
    Resampled,
    bca_interval,
    is_degenerate,
    newcombe,
    percentile_interval,
)


@pytest.mark.parametrize("auc", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_newcombe_holds_the_estimate_and_narrows_with_more_scans(auc):
    few, many = newcombe(auc, 8, 12), newcombe(auc, 80, 120)
    for low, high in (few, many):
        assert 0 <= low <= auc <= high <= 1
    assert many[1] - many[0] < few[1] - few[0]
    assert newcombe(auc, 0, 5) is None


@pytest.mark.parametrize(("n_cases", "n_others"), [(5, 5), (8, 30), (40, 10)])
@pytest.mark.parametrize("auc", [0.3, 0.6, 0.9])
def test_newcombes_limits_lie_as_many_errors_off_as_hanley_and_mcneil_say(auc, n_cases, n_others):
    """1982, Radiology 143:29, by their Q1 and Q2, at the limit and with the mean number in both groups."""
    each = (n_cases + n_others) / 2
    for limit in newcombe(auc, n_cases, n_others):
        q1, q2 = limit / (2 - limit), 2 * limit**2 / (1 + limit)
        variance = limit * (1 - limit) + (each - 1) * (q1 - limit**2) + (each - 1) * (q2 - limit**2)
        error = np.sqrt(variance / (n_cases * n_others))
        assert abs(auc - limit) / error == pytest.approx(norm.ppf(0.975))


def test_newcombe_covers_an_auc_near_one_where_the_bootstrap_is_blind():
    """Normal scores 2.5 standard deviations apart: AUC 0.961; 10 against 10 scans are often perfectly apart."""
    rng, true_auc, covered = np.random.default_rng(0), 0.9615, []
    for _ in range(400):
        positives, negatives = rng.normal(2.5, 1, 10), rng.normal(0, 1, 10)
        low, high = newcombe(float((positives[:, None] > negatives).mean()), 10, 10)
        covered.append(low <= true_auc <= high)
    assert np.mean(covered) > 0.92


def test_the_bootstrap_repeats_by_seed_and_differs_between_seeds():
    patients = [f"p{i // 2}" for i in range(30)]

    def draws(seed):
        return PatientBootstrap(patients, 600, seed).distribution(lambda weights: weights @ np.arange(30.0))

    np.testing.assert_array_equal(draws(3), draws(3))
    assert not np.array_equal(draws(3), draws(4))


def test_scans_of_a_patient_are_drawn_together_and_as_many_patients_as_there_are():
    patients = ["a", "b", "a", "c", "b", "a"]
    weights = PatientBootstrap(patients, 300).distribution(lambda weights: weights)
    assert weights.shape == (300, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(axis=1), 3)


def coverage(draw_sample, truth, repeats=200):
    hits = []
    for seed in range(repeats):
        values, patients = draw_sample(np.random.default_rng(seed))
        bootstrap = PatientBootstrap(patients, 400, seed)
        low, high = percentile_interval(bootstrap.distribution(lambda w, v=values: w @ v / w.sum(axis=1)))
        hits.append(low <= truth <= high)
    return np.mean(hits)


def test_the_bootstrap_covers_a_mean_as_often_as_it_says():
    assert coverage(lambda rng: (rng.random(60), [str(i) for i in range(60)]), 0.5) == pytest.approx(0.95, abs=0.04)


def test_resampling_patients_covers_where_resampling_scans_does_not():
    def clustered(rng):
        return np.repeat(rng.random(40), 5), np.repeat(np.arange(40), 5).astype(str).tolist()

    def as_if_independent(rng):
        values, _ = clustered(rng)
        return values, [str(i) for i in range(200)]

    assert coverage(clustered, 0.5) > 0.9
    assert coverage(as_if_independent, 0.5) < 0.75


def test_no_interval_when_most_draws_lack_the_statistic():
    assert percentile_interval(np.array([np.nan, np.nan, 0.5])) is None
    assert percentile_interval(np.array([0.4, np.nan, 0.5, 0.6])) is not None
    assert percentile_interval(np.array([])) is None


def test_agreeing_draws_are_noticed():
    assert is_degenerate(np.array([1.0, np.nan, 1.0]))
    assert not is_degenerate(np.array([1.0, 0.9]))
    assert not is_degenerate(np.array([np.nan]))


def theirs(values, statistic, n_resamples=999):
    """scipy's BCa interval, and the draws that it was made of."""
    result = bootstrap(
        (values,), statistic, n_resamples=n_resamples, method="BCa", vectorized=True, rng=np.random.default_rng(0)
    )
    return tuple(result.confidence_interval), result.bootstrap_distribution


@pytest.mark.parametrize("statistic", [np.mean, np.median, np.std])
def test_bca_equals_scipy_on_the_same_draws(statistic):
    values = np.random.default_rng(5).exponential(size=41)
    interval, draws = theirs(values, statistic)
    jackknife = np.array([statistic(np.delete(values, i)) for i in range(41)])
    assert bca_interval(float(statistic(values)), draws, jackknife) == pytest.approx(interval, rel=1e-9)


def test_bca_of_a_rate_with_many_ties_equals_scipy():
    values = (np.arange(30) < 26).astype(float)
    interval, draws = theirs(values, np.mean)
    jackknife = np.array([np.delete(values, i).mean() for i in range(30)])
    assert bca_interval(values.mean(), draws, jackknife) == pytest.approx(interval, rel=1e-9)


def test_the_jackknife_leaves_out_each_patient_with_all_scans():
    patients, values = ["b", "a", "b", "c"], np.array([1.0, 2, 3, 4])
    means = PatientBootstrap(patients).jackknife(lambda weights: weights @ values / weights.sum(axis=1))
    assert means == pytest.approx([8 / 3, 3, 2])  # without a, without b, without c


def test_without_a_correction_the_percentiles_are_given():
    draws = np.linspace(0, 1, 101)
    missing = Resampled(0.5, draws, np.array([0.4, np.nan]))
    assert missing.interval() == ((pytest.approx(0.025), pytest.approx(0.975)), "percentile")
    assert bca_interval(0.5, draws, np.full(9, 0.5)) is None  # no acceleration without a spread
    assert bca_interval(1.5, draws, np.arange(9.0)) is None  # every draw below the value: no bias correction
    assert bca_interval(0.5, np.array([np.nan, np.nan, 0.5]), np.arange(9.0)) is None
    assert Resampled(0.5, draws, np.linspace(0.4, 0.6, 9)).interval()[1] == "BCa"


def test_two_thousand_draws_of_macro_auc_take_under_two_seconds():
    data = three_classes(500)
    begin = time.process_time()
    PatientBootstrap(data.patients).distribution(lambda w: weighted_macro_auc(data.truth, data.probabilities, w))
    assert time.process_time() - begin < 2
