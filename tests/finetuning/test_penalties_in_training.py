"""Penalties through the training loop: each has its intended effect, and DELTA's attention is the probe's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from small_network import small_classifier, small_images
from test_strategies_in_training import PLAN, Watch, resolved, run_member

from med_transfer.finetuning.batches import fold_data
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.initialisation import initialise
from med_transfer.model.classifier import Classifier


def after_training(folder: Path, **transfer) -> Classifier:
    """As the last step leaves it, whatever the best epoch was."""
    watch = Watch()
    config = resolved(settings={"learning_rate": 1e-3}, transfer=transfer, training={"epoch_scans": 80})
    classifier = run_member(config, folder, progress=watch).classifier
    classifier.load_state_dict(watch.steps[-1][1], strict=False)
    return classifier


@pytest.fixture(scope="module")
def free(tmp_path_factory) -> Classifier:
    """Trained without a penalty."""
    return after_training(tmp_path_factory.mktemp("free"))


@torch.no_grad()
def weights_from_source(classifier: Classifier) -> float:
    pairs = zip(classifier.encoder.parameters(), small_classifier().encoder.parameters(), strict=True)
    return max(float((new - old).abs().max()) for new, old in pairs)


@torch.no_grad()
def maps_from_source(classifier: Classifier) -> float:
    maps = (network.eval().encoder(small_images()) for network in (classifier, small_classifier()))
    return sum(float((new - old).square().mean()) for new, old in zip(*maps, strict=True))


@torch.no_grad()
def least_variation(classifier: Classifier) -> float:
    """The two smallest singular values of the features of a batch."""
    return float(torch.linalg.svdvals(classifier.eval().features(small_images()))[-2:].sum())


@pytest.mark.parametrize(
    ("penalty", "strong", "measure"),
    [
        ("l2_sp", {"strength": 1e8}, weights_from_source),
        ("delta", {"strength": 1e4}, maps_from_source),
        ("bss", {"strength": 1e3, "k": 2}, least_variation),
    ],
)
def test_a_strong_penalty_keeps_small_what_it_is_on(
    penalty: str, strong: dict[str, float], measure: Callable[[Classifier], float], free, tmp_path
):
    held = after_training(tmp_path, regularise=[penalty], **{penalty: strong})
    assert measure(held) < 0.2 * measure(free)


def test_deltas_attention_is_what_the_probe_loses_with_each_channel_in_every_pooled_stage(tmp_path):
    config = resolved(transfer={"regularise": ["delta"], "delta": {"attention": True}})
    classifier, data = Classifier(small_classifier().encoder, 2, (0, 1)), fold_data(PLAN.prepared, PLAN.split, 0)
    reader = FeatureSource(tmp_path, config, PLAN.preprocessing)
    start = initialise(classifier, data, reader)

    features = reader.cached(classifier, data.training.tensors).double().numpy()

    def loss(of: np.ndarray) -> float:
        return -log_softmax(of @ start.probe.weight.T + start.probe.bias, axis=1)[data.training.truth].mean()

    gains = [loss(np.where(np.arange(10) == channel, 0, features)) - loss(features) for channel in range(10)]
    (penalty,) = start.penalties
    for stage, channels in ((0, gains[:4]), (1, gains[4:])):
        np.testing.assert_allclose(penalty.attention[stage].numpy(), softmax(channels), rtol=1e-4)
        assert penalty.attention[stage].std() > 0


def test_an_attention_of_no_penalty_costs_no_probe(tmp_path):
    config = resolved(transfer={"regularise": ["bss"], "delta": {"attention": True}})
    reader = FeatureSource(tmp_path, config, PLAN.preprocessing)
    start = initialise(small_classifier(), fold_data(PLAN.prepared, PLAN.split, 0), reader)
    assert (start.probe, start.row, len(start.penalties)) == (None, None, 1)
    assert not list(tmp_path.iterdir())  # no features were computed
