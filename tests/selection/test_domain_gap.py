"""Distances between source and target features against their plain formulas, and invariances."""

from __future__ import annotations

from math import dist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import ortho_group
from sklearn.covariance import LedoitWolf

from med_transfer.backbones.weights.source_features import LowRankGaussian
from med_transfer.errors import UsageError
from med_transfer.selection.measures.discrepancy import mmd, proxy_a_distance
from med_transfer.selection.measures.frechet import frechet_distance, gaussian_of


def cloud(n_scans, n_features, seed, shift=0.0, scale=1.0):
    return shift + scale * np.random.default_rng(seed).normal(size=(n_scans, n_features))


def covariance(gaussian):
    components = gaussian.components
    others = np.eye(len(gaussian.mean)) - components.T @ components
    return components.T @ np.diag(gaussian.variances) @ components + gaussian.residual * others


def plain_frechet(first, second):
    here, there = covariance(first), covariance(second)
    root = sqrtm(here @ there)
    return ((first.mean - second.mean) ** 2).sum() + np.trace(here + there - 2 * np.real(root))


# Frechet


def test_gaussian_of_many_scans_is_the_sample_covariance():
    table = cloud(50, 4, 0)
    assert covariance(gaussian_of(table)) == pytest.approx(np.cov(table.T, bias=True))
    assert gaussian_of(table).total_variance == pytest.approx(table.var(axis=0).sum())


def test_gaussian_of_few_scans_is_ledoit_and_wolfs():
    table = cloud(10, 30, 0)
    assert covariance(gaussian_of(table)) == pytest.approx(LedoitWolf().fit(table).covariance_)


@pytest.mark.parametrize("sizes", [(50, 40), (50, 8), (9, 12), (9, 50)])
def test_frechet_is_its_formula(sizes):
    first, second = gaussian_of(cloud(sizes[0], 20, 0)), gaussian_of(cloud(sizes[1], 20, 1, shift=0.3, scale=2))
    assert frechet_distance(first, second) == pytest.approx(plain_frechet(first, second), rel=1e-5)


def test_frechet_by_hand():
    """Independent axes: squared distance of the means plus squared difference of the standard deviations."""
    first = LowRankGaussian(np.array([0.0, 0.0, 0.0]), np.eye(3)[:1], np.array([4.0]), 1.0)
    second = LowRankGaussian(np.array([3.0, 0.0, 0.0]), np.eye(3)[1:2], np.array([9.0]), 1.0)
    assert frechet_distance(first, second) == pytest.approx(9 + (2 - 1) ** 2 + (1 - 3) ** 2)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_frechet_is_a_distance(seed):
    first, second = cloud(30, 6, seed), cloud(5, 6, seed + 1, shift=1)
    there, back = (frechet_distance(gaussian_of(a), gaussian_of(b)) for a, b in ((first, second), (second, first)))
    turn = ortho_group.rvs(6, random_state=seed)
    assert there == pytest.approx(back, rel=1e-6)
    assert frechet_distance(gaussian_of(first @ turn), gaussian_of(second @ turn)) == pytest.approx(there, rel=1e-6)
    assert frechet_distance(gaussian_of(first), gaussian_of(first)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(gaussian_of(3 * first), gaussian_of(3 * second)) == pytest.approx(9 * there, rel=1e-6)


def test_frechet_of_two_scans_is_no_silent_zero():
    """Rounding put the shrinkage of two scans below 0; the distance was not a number, and 0 was returned."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        two, three = rng.normal(size=(2, 2)), 5 + rng.normal(size=(3, 2))
        gaussian = gaussian_of(two)
        assert gaussian.residual >= 0
        assert frechet_distance(gaussian, gaussian_of(three)) >= dist(two.mean(axis=0), three.mean(axis=0)) ** 2 - 1e-9


def test_frechet_of_constant_features():
    still = gaussian_of(np.full((5, 8), 2.0))
    assert frechet_distance(still, gaussian_of(np.full((5, 8), 3.0))) == pytest.approx(8)


# MMD


def naive_mmd(source, target, bandwidth):
    def kernel(a, b):
        return np.exp(-(dist(a, b) ** 2) / (2 * bandwidth**2))

    m, n = len(source), len(target)
    first = sum(kernel(source[i], source[j]) for i in range(m) for j in range(m) if i != j)
    second = sum(kernel(target[i], target[j]) for i in range(n) for j in range(n) if i != j)
    cross = sum(kernel(a, b) for a in source for b in target)
    return first / (m * (m - 1)) + second / (n * (n - 1)) - 2 * cross / (m * n)


def test_mmd_is_the_double_loop():
    source, target = cloud(9, 3, 0), cloud(7, 3, 1, shift=0.5)
    both = np.concatenate([source, target])
    found = mmd(source, target)
    assert found.bandwidth == np.median([dist(both[i], both[j]) for i in range(16) for j in range(i)])
    assert found.squared == pytest.approx(naive_mmd(source, target, found.bandwidth))


def test_mmd_p_value_counts_the_divisions_by_hand():
    source, target = cloud(6, 2, 0), cloud(5, 2, 1, shift=0.8)
    found, both = mmd(source, target, n_permutations=60, seed=3), np.concatenate([source, target])
    rng, observed = np.random.default_rng(3), np.arange(11) < 6
    as_large = 1
    for _ in range(60):
        side = rng.permutation(observed)
        as_large += naive_mmd(both[side], both[~side], found.bandwidth) >= found.squared - 1e-12
    assert found.p_value == as_large / 61


def test_mmd_finds_a_shift_and_not_its_absence():
    assert mmd(cloud(40, 5, 0), cloud(40, 5, 1, shift=1)).p_value < 0.01
    p_values = [mmd(cloud(20, 5, 2 * n), cloud(20, 5, 2 * n + 1), n_permutations=99).p_value for n in range(40)]
    assert 0.25 < np.mean(p_values) < 0.75  # uniform when nothing differs
    assert np.mean(np.array(p_values) <= 0.2) < 0.45


def test_mmd_of_constant_features_says_nothing():
    found = mmd(np.ones((5, 3)), np.ones((4, 3)), n_permutations=20)
    assert (found.squared, found.p_value) == (pytest.approx(0), 1)


# Proxy A-distance


def test_proxy_a_distance_between_its_ends():
    assert proxy_a_distance(cloud(40, 5, 0), cloud(30, 5, 1, shift=20)) == 2
    assert proxy_a_distance(cloud(60, 3, 0), cloud(60, 3, 1)) < 0.8
    near, far = (proxy_a_distance(cloud(60, 3, 0), cloud(60, 3, 1, shift=shift)) for shift in (0.3, 1.5))
    assert near < far


def test_proxy_a_distance_from_its_error():
    """One feature, told apart at a threshold: one of ten targets lies among the sources, so e = (0 + 0.1) / 2."""
    source = np.zeros((10, 1)) + np.linspace(-0.01, 0.01, 10)[:, None]
    target = np.r_[np.full(9, 5.0), 0.0][:, None]
    assert proxy_a_distance(source, target) == pytest.approx(2 * (1 - 2 * 0.05))


def test_proxy_a_distance_keeps_a_patient_together():
    """Ten copies of each target scan: unless they stay together, the classifier has seen what it judges."""
    source, target = cloud(30, 40, 0), np.repeat(cloud(10, 40, 1), 10, axis=0)
    patients = [str(number // 10) for number in range(100)]
    assert proxy_a_distance(source, target, patients) < proxy_a_distance(source, target)


@pytest.mark.parametrize("distance", [mmd, proxy_a_distance])
def test_what_has_no_distance(distance):
    with pytest.raises(UsageError, match="3 and 4 features; expected the same layer of one network"):
        distance(cloud(5, 3, 0), cloud(5, 4, 0))
    with pytest.raises(UsageError, match="5 source and 1 target scans; expected at least two on each side"):
        distance(cloud(5, 3, 0), cloud(1, 3, 0))


def test_what_has_no_frechet_distance():
    with pytest.raises(UsageError, match="1 scan; expected at least two: one has no spread"):
        gaussian_of(cloud(1, 3, 0))
    with pytest.raises(UsageError, match="3 and 4 features; expected the same layer"):
        frechet_distance(gaussian_of(cloud(5, 3, 0)), gaussian_of(cloud(5, 4, 0)))
