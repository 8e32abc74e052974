"""BatchNorm's statistics: kept, adapted to the target, or following each batch."""

from __future__ import annotations

import torch
from small_network import small_classifier, small_images
from torch import nn

from med_transfer.transfer.batch_norm import adapt_statistics, keep_frozen_statistics


def test_adapted_statistics_are_those_of_the_images():
    encoder = small_classifier().encoder
    images = 3 * small_images(8) + 5
    before = {name: p.clone() for name, p in encoder.named_parameters()}
    adapt_statistics(encoder, [images])
    with torch.no_grad():
        response = encoder.conv1(images)
    torch.testing.assert_close(encoder.bn1.running_mean, response.mean((0, 2, 3, 4)))
    torch.testing.assert_close(encoder.bn1.running_var, response.var((0, 2, 3, 4), unbiased=True))
    normalised = encoder.bn1(response)
    expected = encoder.bn1.weight.square()
    torch.testing.assert_close(normalised.var((0, 2, 3, 4)), expected, rtol=1e-2, atol=1e-3)
    assert all(p.equal(before[name]) for name, p in encoder.named_parameters())
    assert not encoder.training
    assert encoder.bn1.momentum == nn.BatchNorm3d(3).momentum


def test_batches_count_alike_and_a_single_scan_does_not():
    encoder, images = small_classifier().encoder, small_images(8)
    adapt_statistics(encoder, [images[:4], images[4:], images[:1] + 100])
    with torch.no_grad():
        response = encoder.conv1(images)
    torch.testing.assert_close(encoder.bn1.running_mean, response.mean((0, 2, 3, 4)))


def test_kept_statistics_do_not_move_in_training_and_train_undoes_it():
    encoder = small_classifier().encoder
    before = encoder.bn1.running_mean.clone()
    encoder.train()
    keep_frozen_statistics(encoder, everywhere=True)
    encoder(small_images() + 5)
    assert encoder.bn1.running_mean.equal(before)
    encoder.train()
    keep_frozen_statistics(encoder, everywhere=False)  # nothing is frozen
    encoder(small_images() + 5)
    assert not encoder.bn1.running_mean.equal(before)
