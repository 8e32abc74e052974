import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from simulated_scores import three_classes

from med_transfer.evaluation.auc import weighted_macro_auc
from med_transfer.evaluation.intervals import PatientBootstrap, is_degenerate, newcombe, percentile_interval, wilson


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(hits_and_total):
    hits, total = hits_and_total
    theirs = binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson(hits, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_of_nothing_is_none_and_never_collapses():
    assert wilson(0, 0) is None
    assert wilson(10, 10)[0] < 0.75
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 10)[0] == 0.0


@pytest.mark.parametrize("auc", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_newcombe_holds_the_estimate_and_narrows_with_more_scans(auc):
    few, many = newcombe(auc, 8, 12), newcombe(auc, 80, 120)
    for low, high in (few, many):
        assert 0 <= low <= auc <= high <= 1
    assert many[1] - many[0] < few[1] - few[0]
    assert newcombe(auc, 0, 5) is None


def test_newcombe_covers_an_auc_near_one_where_the_bootstrap_is_blind():
    """Normal scores 2.5 standard deviations apart: AUC 0.961; 10 against 10 scans are often perfectly apart."""
    rng, true_auc, covered = np.random.default_rng(0), 0.9615, []
    for _ in range(400):
        cases, others = rng.normal(2.5, 1, 10), rng.normal(0, 1, 10)
        low, high = newcombe(float((cases[:, None] > others).mean()), 10, 10)
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


def test_two_thousand_draws_of_macro_auc_take_under_two_seconds():
    data = three_classes(500)
    begin = time.process_time()
    PatientBootstrap(data.patients).distribution(lambda w: weighted_macro_auc(data.truth, data.probabilities, w))
    assert time.process_time() - begin < 2
