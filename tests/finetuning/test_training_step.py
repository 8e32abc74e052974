"""The loss of a training step equals numpy's: mixup, smoothed targets, class weights, added penalties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_expit, log_softmax
from small_network import small_classifier, small_images
from small_run_data import small_config

from med_transfer.finetuning.alignment import DeepCoral
from med_transfer.finetuning.lightning_module import FinetuningModule, LossTerms
from med_transfer.finetuning.regularisation import L2SP
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


def test_penalties_and_alignment_are_added_to_the_error_on_labels():
    """Of the head's weights, of a batch as it is, and of how the features of two groups of scans vary."""
    classifier = small_classifier(n_classes=3).eval()
    penalties = (L2SP(classifier.encoder, 0.3, 0.7), lambda step: torch.tensor(0.5))
    terms = LossTerms(torch.tensor(WEIGHTS), penalties, DeepCoral(10.0))
    config = small_config("full", training={"label_smoothing": 0})
    step = FinetuningModule(classifier, config, terms, labels=Labels(CLASSES), steps_per_epoch=1, seed=SEED)
    images, others = small_images(N), 50 * small_images(5, seed=7)
    features, beside = (classifier.features(part).detach().double().numpy() for part in (images, others))
    logits = classifier(images).detach().double().numpy()
    head = 0.7 / 2 * sum(float(p.detach().square().sum()) for p in classifier.head.parameters())
    apart = np.cov(features, rowvar=False) - np.cov(beside, rowvar=False)
    coral = 10 * (apart**2).sum() / (4 * features.shape[1] ** 2)
    assert min(head, coral) > 0.1  # else there would be nothing to see
    on_labels = loss_by_hand(logits, ONE_CLASS, 0.0, False)
    loss = step.training_step((images, torch.tensor(ONE_CLASS, dtype=torch.bool), others), 0).item()
    assert loss == pytest.approx(on_labels + head + 0.5 + coral, rel=1e-4)
    assert [float(error) for error in step._training_losses] == pytest.approx([on_labels], rel=1e-5)
    assert [float(error) for error in step._alignment_losses] == pytest.approx([coral], rel=1e-4)


def test_unlabelled_images_are_mixed_among_each_other():
    config = small_config("full", augmentation={"strength": 0, "mixup": 0.8})
    terms, labels = LossTerms(torch.tensor(WEIGHTS)), Labels(CLASSES)
    step = FinetuningModule(small_classifier(n_classes=3), config, terms, labels=labels, steps_per_epoch=1, seed=SEED)
    images, others = small_images(3), small_images(N, seed=7)
    seen = step._with_unlabelled(images, others)
    assert seen[:3].equal(images)
    np.testing.assert_allclose(seen[3:].numpy(), mixed_by_hand(others.numpy(), 0.8), rtol=1e-5, atol=1e-6)
