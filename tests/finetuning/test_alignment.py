"""Alignment losses against naive sums, their gradients, and their purpose: a classifier on a shifted target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from med_transfer.finetuning.alignment import ALIGNMENTS, DomainAdversary, find_alignment
from med_transfer.finetuning.alignment.coral import coral_loss
from med_transfer.finetuning.alignment.dann import reverse_gradient
from med_transfer.finetuning.alignment.mmd import mmd_loss
from med_transfer.finetuning.transfer_config import AlignConfig


def cloud(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return shift + scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def naive_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """By loops over pairs, with the widths written out: powers of two about the mean squared distance."""
    points = [*x, *y]
    scale = np.mean([((a - b) ** 2).sum() for i, a in enumerate(points) for j, b in enumerate(points) if i != j])

    def k(a, b):
        return np.mean([np.exp(-((a - b) ** 2).sum() / (width * scale)) for width in (1 / 4, 1 / 2, 1, 2, 4)])

    def within(side):
        return np.mean([k(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j])

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize(("m", "n"), [(6, 6), (4, 9)])
def test_mmd_is_the_naive_sum(m, n):
    x, y = cloud(m, 3, 0), cloud(n, 3, 1, shift=0.7)
    assert float(mmd_loss(x, y)) == pytest.approx(naive_mmd(x.double().numpy(), y.double().numpy()), abs=1e-5)


def test_mmd_of_one_distribution_is_zero_on_average_and_of_two_is_not():
    same = [float(mmd_loss(cloud(8, 4, 2 * s), cloud(8, 4, 2 * s + 1))) for s in range(400)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * error
    assert min(same) < 0 < max(same)
    other = [float(mmd_loss(cloud(8, 4, 2 * s), cloud(8, 4, 2 * s + 1, shift=1))) for s in range(50)]
    assert np.mean(other) > 20 * error


def test_mmd_does_not_change_with_the_unit_of_the_features():
    x, y = cloud(8, 4, 0), cloud(8, 4, 1, shift=1)
    assert float(mmd_loss(1000 * x, 1000 * y)) == pytest.approx(float(mmd_loss(x, y)), rel=1e-4)
    assert torch.isfinite(mmd_loss(torch.zeros(4, 3), torch.zeros(4, 3)))


def test_deep_coral_is_its_formula():
    x, y = cloud(12, 5, 0), cloud(9, 5, 1, scale=2.0)
    difference = np.cov(x.numpy(), rowvar=False) - np.cov(y.numpy(), rowvar=False)
    assert float(coral_loss(x, y)) == pytest.approx((difference**2).sum() / (4 * 25), rel=1e-4)
    assert float(coral_loss(x, x + 3)) == pytest.approx(0, abs=1e-8)  # blind to means, as the docstring says


@pytest.mark.parametrize(("loss", "change"), [(mmd_loss, {"shift": 2.0}), (coral_loss, {"scale": 3.0})])
def test_following_the_gradient_brings_the_sides_together(loss, change):
    x, y = cloud(32, 4, 0), cloud(32, 4, 1, **change)
    start, moved = float(loss(x, y)), y.clone().requires_grad_()
    adam = torch.optim.Adam([moved], lr=0.1)
    for _ in range(100):
        adam.zero_grad()
        loss(x, moved).backward()
        adam.step()
    assert float(loss(x, moved.detach())) < 0.1 * start


def test_the_gradient_is_reversed_for_the_features_and_not_for_the_domain_classifier():
    features = cloud(4, 3, 0).requires_grad_()
    assert reverse_gradient(features, 0.5).equal(features)
    (reverse_gradient(features, 0.5) * 3).sum().backward()
    torch.testing.assert_close(features.grad, torch.full((4, 3), -1.5))

    adversary = DomainAdversary(0.5, 3)
    x, y = cloud(6, 3, 1).requires_grad_(), cloud(8, 3, 2, shift=2).requires_grad_()
    adversary(x, y, progress=1.0).backward()
    known, other = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    logits = torch.cat([adversary.domain(known), adversary.domain(other)])[:, 0]
    truth = torch.cat([torch.ones(6), torch.zeros(8)])
    each = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    own = [p.grad.clone() for p in adversary.parameters()]
    adversary.zero_grad()
    ((each[:6].mean() + each[6:].mean()) / 2).backward()
    strength = 0.5 * (2 / (1 + np.exp(-10)) - 1)
    torch.testing.assert_close(x.grad, -strength * known.grad)
    torch.testing.assert_close(y.grad, -strength * other.grad)
    for found, parameter in zip(own, adversary.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


def test_at_first_the_features_do_not_follow_the_domain_classifier():
    x, y = cloud(4, 3, 0).requires_grad_(), cloud(4, 3, 1)
    DomainAdversary(1.0, 3)(x, y, progress=0.0).backward()
    assert not x.grad.any()


def domain_accuracy(x: torch.Tensor, y: torch.Tensor) -> float:
    """Of scikit-learn's logistic regression that is fitted and judged on other halves."""
    points, side = np.concatenate([x.detach(), y.detach()]), np.r_[np.zeros(len(x)), np.ones(len(y))]
    first, second = np.array_split(np.random.default_rng(0).permutation(len(points)), 2)
    return float(LogisticRegression().fit(points[first], side[first]).score(points[second], side[second]))


@pytest.mark.parametrize("seed", range(2))
def test_against_the_adversary_domains_are_told_apart_no_better_than_by_chance(seed):
    """One feature tells the class, the other the domain: the network learns to leave the second out."""
    chance, truth = torch.Generator().manual_seed(seed), torch.arange(400) % 2
    x, y = (0.5 * torch.randn(400, 2, generator=chance) + (2 * truth[:, None] - 1) * torch.tensor([1, 0]) for _ in "xy")
    y[:, 1] += 2
    torch.manual_seed(seed)
    network, head, adversary = nn.Linear(2, 2), nn.Linear(2, 2), DomainAdversary(1.0, 2)
    steps, parameters = 600, [p for part in (network, head, adversary) for p in part.parameters()]
    sgd = torch.optim.SGD(parameters, 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    assert domain_accuracy(x, y) > 0.95
    for step in range(steps):
        i, j = (torch.randint(400, (64,), generator=chance) for _ in range(2))
        features, others = network(x[i]), network(y[j])
        loss = nn.functional.cross_entropy(head(features), truth[i]) + adversary(features, others, step / steps)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        schedule.step()
    assert domain_accuracy(network(x), network(y)) < 0.6  # by a classifier of its own
    told = ((adversary.domain(network(x)) > 0).float().mean() + (adversary.domain(network(y)) < 0).float().mean()) / 2
    assert float(told) < 0.6
    assert float((head(network(y)).argmax(1) == truth).float().mean()) > 0.9


def shifted_problem(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two classes along one direction; on the target other directions, and that one, are shifted.

    Labelled features and classes, target features and (for judging alone) their classes.
    """
    chance = np.random.default_rng(seed)
    classes = np.arange(400) % 2
    signal = np.where(classes, 1.0, -1.0)[:, None] * np.r_[1.5, np.zeros(5)]
    x, y = (signal + chance.normal(size=(400, 6)) * np.r_[0.7, np.ones(5)] for _ in range(2))
    y = y + np.r_[2.5, 2.0, np.zeros(4)]
    rotation = np.linalg.qr(chance.normal(size=(6, 6)))[0]
    x, y = (torch.from_numpy(side @ rotation).float() for side in (x, y))
    return x, torch.from_numpy(classes), y, torch.from_numpy(classes)


def trained(method: str | None, weight: float, seed: int) -> tuple[float, float]:
    """Accuracy on the target, and how well the two sides' features are told apart."""
    x, truth, y, evaluate = shifted_problem(seed)
    torch.manual_seed(seed)
    network, head = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), nn.Linear(4, 2)
    alignment = ALIGNMENTS[method](weight, 4) if method else None
    parameters = [*network.parameters(), *head.parameters(), *(alignment.parameters() if alignment else ())]
    adam, chance, steps = torch.optim.Adam(parameters, 5e-3), torch.Generator().manual_seed(seed), 300
    for step in range(steps):
        i, j = (torch.randint(400, (64,), generator=chance) for _ in range(2))
        features, others = network(x[i]), network(y[j])
        loss = nn.functional.cross_entropy(head(features), truth[i])
        if alignment:
            loss = loss + alignment(features, others, step / steps)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        right = (head(network(y)).argmax(1) == evaluate).float().mean()
    return float(right), domain_accuracy(network(x), network(y))


@pytest.mark.parametrize(("method", "weight"), [("mmd", 2.0), ("dann", 1.0)])
def test_alignment_recovers_the_accuracy_that_a_shift_of_the_target_has_cost(method, weight):
    plain = np.array([trained(None, 0, seed) for seed in range(3)])
    aligned = np.array([trained(method, weight, seed) for seed in range(3)])
    assert plain[:, 0].mean() < 0.75
    assert aligned[:, 0].mean() > plain[:, 0].mean() + 0.1
    assert aligned[:, 1].mean() < plain[:, 1].mean()  # the sides are harder to tell apart


def test_a_config_names_the_alignment():
    for method, kind in ALIGNMENTS.items():
        found = find_alignment(AlignConfig(method=method, weight=3, unlabelled="x"), 4)
        assert type(found) is type(kind(3, 4))
        assert found.weight == 3
    assert find_alignment(None, 4) is None
