"""Members averaged after calibration, and novelty as a rank among held-out scans."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.special import softmax

from med_transfer.backbones import load_backbone
from med_transfer.model.calibration import TemperatureScaling
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble
from med_transfer.model.novelty import STATISTICS, Novelty, input_statistics


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
        torch.testing.assert_close(found.float(), classifiers[0](images).sigmoid())


def test_scans_of_high_probability_keep_their_order_in_both_classes(images):
    """In single precision log odds of 20 and 25 are one probability of a class and two of the other."""
    (classifier,) = members(1, n_classes=2)
    ensemble = Ensemble([classifier]).eval()
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.weight[1, 0] = 1
        features = torch.zeros(2, classifier.head.in_features)
        features[:, 0] = torch.tensor([20.0, 25.0])
        classifier.head.bias.zero_()
        first, second = ensemble.predict_features([features], images)[0].numpy()
    assert first[1] < second[1]
    assert first[0] > second[0]


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


def crops(n: int, seed: int, noise: float = 0.1) -> torch.Tensor:
    """Random grey blocks of 4 voxels with noise."""
    random = np.random.default_rng(seed)
    blocks = random.normal(size=(n, 1, 4, 4, 4)).repeat(4, 2).repeat(4, 3).repeat(4, 4)
    return torch.from_numpy(blocks + noise * random.normal(size=blocks.shape)).float()


def test_statistics_of_the_input_agree_with_numpy_and_scipy():
    images = torch.cat([crops(3, 0), crops(3, 1) * 2 + 1], dim=1)
    found = input_statistics(images).numpy()
    assert found.shape == (3, 2 * STATISTICS)
    for image, row in zip(images.double().numpy(), found.reshape(3, 2, STATISTICS), strict=True):
        for channel, (mean, sd, *percentiles, noise) in zip(image, row, strict=True):
            assert (mean, sd) == pytest.approx((channel.mean(), channel.std(ddof=1)), rel=1e-4, abs=1e-5)
            np.testing.assert_allclose(percentiles, np.percentile(channel, (1, 10, 25, 50, 75, 90, 99)), atol=1e-4)
            inner = np.abs(ndimage.laplace(channel)[1:-1, 1:-1, 1:-1])
            assert noise == pytest.approx(np.median(inner), rel=1e-2)


def test_an_input_of_another_kind_is_novel_where_the_features_do_not_tell():
    training, held_out = gaussian(100, 0), gaussian(100, 1)
    seen = [input_statistics(crops(100, seed)) for seed in (0, 1)]
    novelty = Novelty(64, STATISTICS).fit(training, held_out, (seen[0], seen[1]))
    same, noisy = (input_statistics(crops(100, 2, noise)) for noise in (0.1, 0.5))
    like = gaussian(100, 2)
    assert stats.kstest(novelty(like, same).numpy(), "uniform").statistic < 0.25
    assert (novelty(like, noisy) > 0.95).all()
    assert (novelty(gaussian(100, 3) * 4, same) > 0.95).float().mean() > 0.8
    flat = input_statistics(torch.zeros(1, 1, 16, 16, 16))  # a statistic that never varied does not decide alone
    constant = Novelty(64, STATISTICS).fit(training, held_out, (flat.repeat(100, 1), flat.repeat(100, 1)))
    assert torch.isfinite(constant(like, same)).all()


def test_a_bundle_from_before_the_input_counted_keeps_its_measure(images):
    novelty = Novelty(256).fit(torch.randn(40, 256), torch.randn(10, 256))
    ensemble = Ensemble(members(1), [novelty]).eval()
    assert not [name for name in ensemble.state_dict() if "input" in name or "units" in name]
    with torch.no_grad():
        features = ensemble.fold_model_features(images)
        torch.testing.assert_close(ensemble.predict(images)[1], novelty(features[0]))


def test_few_training_scans_are_enough():
    novelty = Novelty(64).fit(gaussian(5, 0), gaussian(2, 1))
    assert torch.isfinite(novelty(gaussian(3, 2))).all()
