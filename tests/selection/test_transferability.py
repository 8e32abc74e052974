"""Each measure against another derivation of the same number, on arrays small enough to follow, and invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from med_transfer.errors import UsageError
from med_transfer.selection.measures.hscore import h_score, regularised_h_score
from med_transfer.selection.measures.leep import leep, n_leep
from med_transfer.selection.measures.logme import log_me
from med_transfer.selection.measures.transrate import trans_rate

FOR_ALL = (log_me, regularised_h_score, n_leep, trans_rate)
quick = settings(max_examples=15)


def features(n_scans, n_features, seed, signal=0.0, n_classes=3):
    """Noise, and ``signal`` times the class along one feature for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_scans) % n_classes
    table = rng.normal(size=(n_scans, n_features))
    table[:, :n_classes] += signal * np.eye(n_classes)[labels]
    return table, labels


# LogME


def direct_evidence(table, column):
    """The highest log-density of a label column over prior and noise precision, by its full covariance."""

    def loss(logs):
        alpha, beta = np.exp(logs)
        covariance = np.eye(len(table)) / beta + table @ table.T / alpha
        return -multivariate_normal.logpdf(column, np.zeros(len(table)), covariance)

    starts = [(a, b) for a in (-3.0, 0.0, 4.0) for b in (0.0, 2.0)]
    bounds = [(-12, 18), (-12, 18)]
    found = [minimize(loss, start, method="Nelder-Mead", bounds=bounds, tol=1e-8) for start in starts]
    return -min(one.fun for one in found)


@pytest.mark.parametrize(("n_scans", "n_features", "signal"), [(20, 4, 1.0), (20, 4, 4.0), (12, 30, 2.0)])
def test_logme_is_the_highest_evidence(n_scans, n_features, signal):
    table, labels = features(n_scans, n_features, 0, signal)
    direct = [direct_evidence(table, (labels == number).astype(float)) for number in range(3)]
    assert log_me(table, labels) == pytest.approx(np.mean(direct) / n_scans, abs=1e-6)


def test_logme_by_the_authors_fixed_point():
    """Their update: alpha = gamma / m'm, beta = (n - gamma) / |Fm - y|^2, gamma the effective number of features."""
    table, labels = features(40, 6, 1, 2.0)
    values, vectors = np.linalg.eigh(table.T @ table)
    evidences = []
    for number in range(3):
        column, alpha, beta = (labels == number).astype(float), 1.0, 1.0
        for _ in range(3000):
            gamma = (beta * values / (alpha + beta * values)).sum()
            mean = beta * vectors @ ((vectors.T @ table.T @ column) / (alpha + beta * values))
            misfit = ((table @ mean - column) ** 2).sum()
            alpha, beta = gamma / (mean @ mean), (40 - gamma) / misfit
        log_det = np.log(alpha + beta * values).sum()
        evidences.append(
            20 * np.log(beta)
            + 3 * np.log(alpha)
            - 20 * np.log(2 * np.pi)
            - beta / 2 * misfit
            - alpha / 2 * mean @ mean
            - log_det / 2
        )
    assert log_me(table, labels) == pytest.approx(np.mean(evidences) / 40, abs=1e-6)


def test_logme_of_no_features_is_the_evidence_of_noise():
    labels = np.array([0, 0, 0, 1])
    noise = [np.log(2 * np.pi * share) + 1 for share in (0.75, 0.25)]
    assert log_me(np.zeros((4, 3)), labels) == pytest.approx(-np.mean(noise) / 2)


def test_logme_of_the_labels_themselves_is_finite_and_high():
    labels = np.arange(30) % 3
    assert 3 < log_me(np.eye(3)[labels], labels) < 7


# H-score


def test_h_score_is_its_trace():
    table, labels = features(40, 5, 2, 1.5)
    means = np.stack([table[labels == number].mean(axis=0) for number in range(3)])[labels]
    trace = np.trace(np.linalg.inv(np.cov(table.T, bias=True)) @ np.cov(means.T, bias=True))
    assert h_score(table, labels) == pytest.approx(trace)


def test_h_score_of_the_labels_themselves_is_the_classes_less_one():
    labels = np.arange(30) % 3
    assert h_score(np.eye(3)[labels], labels) == pytest.approx(2)


@pytest.mark.parametrize(("n_scans", "n_features"), [(40, 5), (15, 60)])
def test_regularised_h_score_is_its_trace(n_scans, n_features):
    table, labels = features(n_scans, n_features, 3, 1.5)
    means = np.stack([table[labels == number].mean(axis=0) for number in range(3)])[labels]
    fitted = LedoitWolf().fit(table)
    trace = np.trace(np.linalg.inv(fitted.covariance_) @ np.cov(means.T, bias=True))
    assert regularised_h_score(table, labels) == pytest.approx((1 - fitted.shrinkage_) * trace)


def test_plain_h_score_refuses_fewer_scans_than_features():
    with pytest.raises(UsageError, match="12 scans and 30 features: the plain H-score means nothing; expected more"):
        h_score(*features(12, 30, 0))


# LEEP


def test_leep_by_hand():
    """Two source classes. P(z|...) worked out on paper: joint [[.4, .1], [.1, .4]], marginal [.5, .5]."""
    theta = np.array([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])
    assert leep(theta, [0, 0, 1, 1]) == pytest.approx(np.log(0.8 * 0.8 + 0.2 * 0.2))
    assert leep(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1]) == pytest.approx(0)
    assert leep(np.full((4, 2), 0.5), [0, 0, 0, 1]) == pytest.approx((3 * np.log(0.75) + np.log(0.25)) / 4)


def test_leep_by_a_loop_over_scans_and_classes():
    rng = np.random.default_rng(0)
    theta, labels = rng.dirichlet(np.ones(4), size=30), rng.integers(3, size=30)
    total = 0.0
    for scan in range(30):
        expected = 0.0
        for z in range(4):
            same = sum(theta[other, z] for other in range(30) if labels[other] == labels[scan])
            expected += same / theta[:, z].sum() * theta[scan, z]
        total += np.log(expected)
    assert leep(theta, labels) == pytest.approx(total / 30)


def test_leep_refuses_what_is_no_probability():
    with pytest.raises(UsageError, match="rows that are no probabilities; expected 0 or more in each source class"):
        leep([[0.5, 0.4], [0.5, 0.5]], [0, 1])


def test_n_leep_finds_clusters():
    """Four clusters far apart, one class each: every scan is certain, so the score is nearly 0."""
    labels = np.arange(40) % 4
    corners = 100 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    table = corners[labels] + np.random.default_rng(0).normal(size=(40, 3))
    assert -0.2 < n_leep(table, labels) <= 0
    assert n_leep(table, np.random.default_rng(1).permutation(labels)) < -0.8


def test_n_leep_keeps_as_many_components_as_pca_does():
    from med_transfer.selection.measures.leep import _principal_components

    table, _ = features(30, 12, 4)
    kept, reference = _principal_components(table), PCA(0.8).fit_transform(table)
    assert kept.shape == reference.shape
    assert np.corrcoef(kept[:, 0], reference[:, 0])[0, 1] ** 2 == pytest.approx(1)
    assert kept[:, 0].var() == pytest.approx(1)


# TransRate


def published_trans_rate(table, labels, eps=1e-4):
    """The pseudo-code of the paper's appendix, which weighs the classes alike."""

    def rate(points):
        return 0.5 * np.linalg.slogdet(np.eye(points.shape[1]) + points.T @ points / (len(points) * eps))[1]

    centred = table - table.mean(axis=0)
    return rate(centred) - np.mean([rate(centred[labels == number]) for number in np.unique(labels)])


@pytest.mark.parametrize(("n_scans", "n_features"), [(30, 4), (12, 40)])
def test_trans_rate_is_the_published_one_where_classes_are_balanced(n_scans, n_features):
    table, labels = features(n_scans, n_features, 5, 2.0)
    centred = table - table.mean(axis=0)
    scaled = centred / np.sqrt((centred**2).sum(axis=1).mean())
    assert trans_rate(table, labels) == pytest.approx(published_trans_rate(scaled, labels))


def test_trans_rate_weighs_classes_by_their_size():
    """log det by hand, one feature: -1, -1, -1, 3 has variance 3, so 3/3 = 1 after scaling; within classes none."""
    value = trans_rate([[-1.0], [-1.0], [-1.0], [3.0]], [0, 0, 0, 1])
    whole = 0.5 * np.log(1 + 1 / 1e-4)
    parts = 0.75 * 0.5 * np.log(1 + (1 / 3) / 1e-4) + 0.25 * 0.5 * np.log(1 + 3 / 1e-4)
    assert value == pytest.approx(whole - parts)


# What must hold for all


@quick
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_neither_rotation_nor_scale_matters(seed, scale):
    table, labels = features(24, 5, seed, 1.5)
    turned = scale * table @ ortho_group.rvs(5, random_state=seed)
    for measure in (log_me, h_score, regularised_h_score, trans_rate):
        assert measure(turned, labels) == pytest.approx(measure(table, labels), rel=1e-6, abs=1e-6)


@quick
@given(seed=st.integers(0, 10_000))
def test_neither_the_order_of_scans_nor_the_names_of_classes_matter(seed):
    table, labels = features(24, 5, seed, 1.5)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(24), rng.permutation(3) * 7
    for measure in (log_me, h_score, regularised_h_score, trans_rate):
        assert measure(table[order], names[labels[order]]) == pytest.approx(measure(table, labels), abs=1e-8)


@pytest.mark.parametrize(
    ("measure", "n_features"), [(m, n) for m in FOR_ALL for n in (6, 80) if (m, n) != (trans_rate, 80)]
)
@pytest.mark.parametrize("seed", range(3))
def test_informative_features_rank_above_noise(measure, n_features, seed):
    informative, labels = features(60, n_features, seed, 6.0)
    noise, _ = features(60, n_features, seed + 100)
    assert measure(informative, labels) > measure(noise, labels)


def test_trans_rate_is_blind_in_layers_wider_than_the_scans():
    """As its docstring warns: a class of 20 scans spans a space of its own, whatever it holds."""
    informative, labels = features(60, 80, 0, 6.0)
    assert trans_rate(informative, labels) < trans_rate(features(60, 80, 100)[0], labels)


@pytest.mark.parametrize("measure", [*FOR_ALL, h_score])
def test_constant_features_have_a_score_and_it_is_low(measure):
    table, labels = features(30, 4, 0, 6.0)
    constant = measure(np.full((30, 4), 2.5), labels)
    assert np.isfinite(constant)
    assert constant < measure(table, labels)


@pytest.mark.parametrize("measure", [*FOR_ALL, h_score])
def test_what_no_measure_can_use(measure):
    table, labels = features(30, 4, 0)
    with pytest.raises(UsageError, match="1 class among 30 scans; expected at least two classes"):
        measure(table, np.zeros(30))
    with pytest.raises(UsageError, match=r"labels of shape \[29\]; expected one for each of 30 scans"):
        measure(table, labels[1:])
    with pytest.raises(UsageError, match="1 of 30 scans have NaN or infinite features, the first is scan 7"):
        measure(np.where(np.arange(30)[:, None] == 7, np.nan, table), labels)
    with pytest.raises(UsageError, match=r"features of shape \[0, 4\]; expected a table"):
        measure(table[:0], labels[:0])
