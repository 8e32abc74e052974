"""Learning rate, weight decay and the running mean of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from med_transfer.pretraining.optimisation import decay_groups, learning_rate_share, update_average


def test_learning_rate_warms_up_and_falls_to_zero():
    shares = [learning_rate_share(p / 100, 0.1) for p in range(101)]
    assert shares[10] == pytest.approx(1)
    assert shares[:11] == sorted(shares[:11])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[-1] == pytest.approx(0)
    assert (shares[5], shares[55]) == pytest.approx((0.5, 0.5))  # halfway up, and halfway down
    assert shares[0] > 0  # a step without learning would be lost


def test_the_running_mean_of_the_weights_agrees_with_the_formula():
    a, b = nn.BatchNorm3d(3), nn.BatchNorm3d(3)
    nn.init.constant_(b.weight, 3.0)
    b.num_batches_tracked.fill_(7)
    update_average(a, b, 0.75)
    torch.testing.assert_close(a.weight, torch.full((3,), 0.75 * 1 + 0.25 * 3))
    assert a.num_batches_tracked == 7


def test_vectors_have_no_weight_decay_and_frozen_weights_are_left_out():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    module[1].requires_grad_(False)
    weights, vectors = decay_groups(module.parameters(), 0.1)
    assert [(p.ndim, len(g["params"]), g["weight_decay"]) for g in (weights, vectors) for p in g["params"]] == [
        (2, 1, 0.1),
        (1, 1, 0.0),
    ]
