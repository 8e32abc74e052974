"""The loss of a training step is the one that numpy gives: mixup, smoothed targets and class weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax
from small_network import small_classifier, small_images
from small_run_data import small_config

from med_transfer.finetuning.lightning_module import FinetuningModule, LossTerms
from med_transfer.predictions.labels import Labels

SEED, N, CLASSES = 3, 8, ("a", "b", "c")
WEIGHTS = np.array([0.5, 1.0, 2.0])
ONE_CLASS = np.eye(3)[np.arange(N) % 3]
FINDINGS = (np.random.default_rng(0).random((N, 3)) < 0.5).astype(float)


def mixed_by_hand(values: NDArray, alpha: float) -> NDArray:
    """Each with another of the batch: one weight for all, the greater part its own."""
    random = np.random.default_rng(SEED)
    own = random.beta(alpha, alpha)
    own, partner = max(own, 1 - own), random.permutation(N)
    assert 0.55 < own < 0.95  # else there would be nothing to see
    return own * values + (1 - own) * values[partner]


def loss_by_hand(logits: NDArray, targets: NDArray, smoothing: float, multilabel: bool) -> float:
    """Weighted cross-entropy against targets of which a share is spread evenly over what is possible."""
    if multilabel:
        soft = (1 - smoothing) * targets + smoothing / 2
        return -(WEIGHTS * soft * log_expit(logits) + (1 - soft) * log_expit(-logits)).mean()
    soft = (1 - smoothing) * targets + smoothing / 3
    return -(WEIGHTS * soft * log_softmax(logits, axis=1)).sum(axis=1).mean()


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(("alpha", "smoothing"), [(0.0, 0.0), (0.8, 0.0), (0.0, 0.2), (0.8, 0.2)])
def test_the_loss_of_a_step_is_numpys(multilabel, alpha, smoothing):
    classifier = small_classifier(n_classes=3).eval()  # with the source's statistics a scan's answer is its own
    config = small_config("full", training={"label_smoothing": smoothing}, augmentation={"strength": 0, "mixup": alpha})
    step = FinetuningModule(
        classifier,
        config,
        LossTerms(torch.tensor(WEIGHTS)),
        labels=Labels(CLASSES, multilabel),
        steps_per_epoch=1,
        seed=SEED,
    )
    images, truth = small_images(N), FINDINGS if multilabel else ONE_CLASS
    seen, targets = (mixed_by_hand(one, alpha) if alpha else one for one in (images.numpy(), truth))
    logits = classifier(torch.tensor(seen, dtype=torch.float32)).detach().double().numpy()
    loss = step.training_step((images, torch.tensor(truth, dtype=torch.bool)), 0).item()
    assert loss == pytest.approx(loss_by_hand(logits, targets, smoothing, multilabel), rel=1e-5)
