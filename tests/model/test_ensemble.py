"""Members averaged after calibration, and novelty as a rank among held-out scans."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from med_transfer.backbones import load_backbone
from med_transfer.model.calibration import TemperatureScaling
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.novelty import Novelty


def members(n: int, n_classes: int = 3) -> list[Classifier]:
    return [Classifier(load_backbone("resnet18-w32", seed=seed).encoder, n_classes) for seed in range(n)]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def test_probabilities_are_the_mean_of_the_members_at_the_temperature(images):
    classifiers = members(2)
    ensemble = Ensemble(classifiers, calibrator=TemperatureScaling(temperature=2.5)).eval()
    with torch.no_grad():
        expected = np.mean([softmax(c(images).double().numpy() / 2.5, axis=1) for c in classifiers], axis=0)
        np.testing.assert_allclose(ensemble(images).numpy(), expected, atol=1e-6)


def test_findings_are_independent_probabilities(images):
    classifiers = members(1)
    with torch.no_grad():
        found = Ensemble(classifiers, multilabel=True).eval()(images)
        torch.testing.assert_close(found, classifiers[0](images).sigmoid())


def test_weights_survive_a_round_trip_with_everything_that_was_fitted(images):
    novelty = Novelty(256).fit(torch.randn(40, 256), torch.randn(10, 256))
    ensemble = Ensemble(members(1), [novelty]).eval()
    copy = Ensemble(members(1)[:1]).eval()
    copy.load_state_dict(ensemble.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(ensemble.predict(images), copy.predict(images), strict=True):
            torch.testing.assert_close(ours, theirs)


def gaussian(n: int, seed: int, features: int = 64) -> torch.Tensor:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(8, features))
    return torch.from_numpy(random.normal(size=(n, 8)) @ mixing + 0.1 * random.normal(size=(n, features))).float()


def test_ranks_of_scans_like_the_training_scans_are_uniform():
    novelty = Novelty(64).fit(gaussian(300, 0), gaussian(300, 1))
    ranks = novelty(gaussian(500, 2)).numpy()
    assert stats.kstest(ranks, "uniform").statistic < 0.1


def test_strange_scans_rank_at_the_top_also_where_training_never_varied():
    novelty = Novelty(64).fit(gaussian(300, 0), gaussian(300, 1))
    assert novelty(gaussian(20, 3) * 4).mean() > 0.9
    off_plane = gaussian(20, 3) + 2.0 * torch.from_numpy(np.random.default_rng(5).normal(size=64)).float()
    assert novelty(off_plane).min() > 0.99


def test_distance_agrees_with_the_mahalanobis_distance_of_its_own_covariance():
    training = gaussian(400, 0, features=20)
    novelty = Novelty(20).fit(training, training)
    basis, variances = novelty.components.double().numpy(), novelty.variances.double().numpy()
    rest = np.eye(20) - basis.T @ basis
    precision = basis.T @ np.diag(1 / variances) @ basis + rest / float(novelty.residual)
    centred = (training - training.mean(0)).double().numpy()
    expected = np.einsum("nf,fg,ng->n", centred, precision, centred)
    np.testing.assert_allclose(novelty.distance(training).numpy(), expected, rtol=1e-3)


def test_few_training_scans_are_enough():
    novelty = Novelty(64).fit(gaussian(5, 0), gaussian(2, 1))
    assert torch.isfinite(novelty(gaussian(3, 2))).all()
