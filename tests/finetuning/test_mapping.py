"""Mapped features: CORAL's closed form and its moments, the autoencoder against the mean, and a planted shift."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import fractional_matrix_power
from torch import nn

from med_transfer.finetuning.mapping import fit_autoencoder, fit_coral
from med_transfer.model.linear_head import fit_head


def cloud(n, d, seed, covariance_seed):
    mix = np.random.default_rng(covariance_seed).normal(size=(d, d))
    return np.random.default_rng(seed).normal(size=(n, d)) @ mix + covariance_seed


def test_coral_is_the_papers_formula_on_standardised_features():
    x, y = cloud(80, 5, 0, 1), cloud(60, 5, 1, 2)
    scale, centred = x.std(axis=0), x - x.mean(axis=0)
    c_x, c_y = (np.cov(side / scale, rowvar=False) + np.eye(5) for side in (x, y))
    whitened = centred / scale @ fractional_matrix_power(c_x, -0.5)
    expected = whitened @ fractional_matrix_power(c_y, 0.5) * scale + y.mean(axis=0)
    np.testing.assert_allclose(fit_coral(x, y, ridge=1.0)(x), expected, rtol=1e-8)


def test_moments_match_after_it():
    x, y = cloud(80, 5, 0, 1), cloud(60, 5, 1, 2)
    mapped = fit_coral(x, y, ridge=1e-9)(x)
    np.testing.assert_allclose(mapped.mean(axis=0), y.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(np.cov(mapped, rowvar=False), np.cov(y, rowvar=False), rtol=1e-5)
    np.testing.assert_allclose(fit_coral(x, x)(x), x, rtol=1e-6)  # nothing to do


def test_coral_with_fewer_scans_than_features_and_a_dead_feature_stays_finite():
    x, y = (np.c_[cloud(10, 40, seed, seed), np.zeros(10)] for seed in (1, 2))
    mapped = fit_coral(x, y)(x)
    assert np.isfinite(mapped).all()
    np.testing.assert_allclose(mapped.mean(axis=0), y.mean(axis=0), atol=1e-8)


def accuracies_elsewhere(seed: int) -> tuple[float, float]:
    """Of a probe on plain and on recoloured features; the other site stretches, turns and shifts them."""
    chance = np.random.default_rng(seed)
    classes = np.arange(300) % 2
    signal = np.where(classes, 1.0, -1.0)[:, None] * np.r_[1.2, 0.6, np.zeros(4)]
    here, there = (signal + chance.normal(size=(300, 6)) * 0.8 for _ in range(2))
    symmetric = chance.normal(size=(6, 6)) * 0.2
    there = there @ (np.diag([3, 1, 2, 0.5, 1, 1]) + symmetric + symmetric.T) + chance.normal(size=6) * 6
    truth = np.eye(2, dtype=bool)[classes]

    def accuracy(features):
        head = fit_head(features, truth, 1.0, multilabel=False, balanced=True)
        return (head.logits(there).argmax(axis=1) == classes).mean()

    return accuracy(here), accuracy(fit_coral(here, there, ridge=0.01)(here))


def test_a_probe_on_recoloured_features_recovers_what_another_site_has_cost():
    plain, recoloured = np.transpose([accuracies_elsewhere(seed) for seed in range(6)])
    assert plain.mean() < 0.8
    assert recoloured.min() > 0.85
    assert (recoloured > plain).all()


def few_directions(n, seed):
    """40 features that vary along 3 directions, in very different units, and some noise."""
    chance, mix = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(3, 40))
    table = (chance.normal(size=(n, 3)) @ mix + 0.1 * chance.normal(size=(n, 40))) * np.logspace(-2, 3, 40) + 7
    return torch.from_numpy(table).float()


def test_the_autoencoder_gives_scans_it_has_not_seen_back_better_than_their_mean():
    fitted = fit_autoencoder(few_directions(100, 0), 8, noise=0.3, steps=500, seed=0)
    assert fitted.kept_variance(few_directions(60, 1)) > 0.8
    narrow = fit_autoencoder(few_directions(100, 0), 1, noise=0.3, steps=500, seed=0)
    assert narrow.kept_variance(few_directions(60, 1)) < fitted.kept_variance(few_directions(60, 1))
    noise = torch.randn(60, 40, generator=torch.Generator().manual_seed(3)) * fitted.scale + 7
    assert fitted.kept_variance(noise) < 0.3  # what the target's scans do not vary in is not kept


def test_the_same_seed_gives_the_same_autoencoder_and_leaves_chance_alone():
    state = torch.get_rng_state()
    first = fit_autoencoder(few_directions(30, 0), 4, noise=0.3, steps=20, seed=1)
    assert torch.get_rng_state().equal(state)
    torch.rand(1)  # whatever was drawn before
    second, other = (fit_autoencoder(few_directions(30, 0), 4, noise=0.3, steps=20, seed=s) for s in (1, 2))
    assert first.encoder.weight.equal(second.encoder.weight)
    assert not first.encoder.weight.equal(other.encoder.weight)


def test_its_code_is_what_the_classifiers_layer_computes():
    features = few_directions(30, 0)
    fitted = fit_autoencoder(features, 4, noise=0.1, steps=50, seed=0)
    layer = nn.Sequential(nn.Linear(40, 4), nn.Tanh())
    layer[0].load_state_dict(fitted.encoder.state_dict())
    assert layer(features).equal(fitted.code(features))
    assert fitted.code(features).abs().max() < 1
    assert fitted.code(features).std(0).min() > 0.05
