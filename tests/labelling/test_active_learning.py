"""What to label next: uncertain scans, unlike each other, one per patient, and reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from med_transfer.errors import UsageError
from med_transfer.labelling.active_learning import choose_next, distance_from_call, entropy

SURE, UNSURE = [0.99, 0.005, 0.005], [0.4, 0.35, 0.25]


def positions(chosen):
    return [one.position for one in chosen]


def pool(n_sure=200, n_unsure=20, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_sure + n_unsure, 12))
    probabilities = np.array([SURE] * n_sure + [UNSURE] * n_unsure)
    return features, probabilities, [f"p{number}" for number in range(n_sure + n_unsure)]


def test_entropy_is_scipys():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=30)
    assert entropy(probabilities) == pytest.approx(scipy_entropy(probabilities, axis=1, base=4))
    assert entropy(np.array([[0.25] * 4, [1.0, 0, 0, 0]])) == pytest.approx([1, 0])
    findings = probabilities[:, :2]
    expected = [scipy_entropy([findings[:, c], 1 - findings[:, c]], base=2) for c in range(2)]
    assert entropy(findings, multilabel=True) == pytest.approx(np.mean(expected, axis=0))


def test_distance_is_that_of_the_gradients_of_the_last_layer():
    """The distances are worked out without the outer products: here they are made."""
    features, probabilities, patients = pool(0, 12)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(3), size=12)
    chosen = choose_next(features, probabilities, patients, 5)
    directions = (features - features.mean(0)) / features.std(0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gradients = np.einsum("sc,sf->scf", distance_from_call(probabilities), directions).reshape(12, -1)
    known = [np.zeros(gradients.shape[1])]
    for one in chosen:
        nearest = min(np.linalg.norm(gradients[one.position] - other) for other in known)
        assert one.distance == pytest.approx(nearest, abs=1e-6)
        known.append(gradients[one.position])


def test_uncertain_scans_come_before_certain_ones():
    for seed in range(5):
        features, probabilities, patients = pool(seed=seed)
        chosen = positions(choose_next(features, probabilities, patients, 10, seed))
        assert len(set(chosen)) == 10
        assert sum(position >= 200 for position in chosen) >= 9  # 20 of 220 are unsure


def test_planted_copies_are_not_chosen_twice():
    features, probabilities, _ = pool(0, 8)
    features, probabilities = np.tile(features, (6, 1)), np.tile(probabilities, (6, 1))
    patients = [f"p{number}" for number in range(48)]
    for seed in range(5):
        chosen = positions(choose_next(features, probabilities, patients, 20, seed))
        assert sorted(position % 8 for position in chosen) == list(range(8))


def test_groups_of_like_scans_each_get_one():
    rng = np.random.default_rng(0)
    centres = 10 * rng.normal(size=(5, 12))
    group = np.repeat(np.arange(5), (60, 20, 10, 5, 5))
    features = centres[group] + 0.05 * rng.normal(size=(100, 12))
    probabilities = np.array([UNSURE] * 100)
    for seed in range(5):
        chosen = positions(choose_next(features, probabilities, [str(i) for i in range(100)], 5, seed))
        assert set(group[chosen]) == set(range(5))


def test_one_scan_a_patient():
    features, probabilities, _ = pool(0, 30)
    patients = [f"p{number % 6}" for number in range(30)]
    chosen = positions(choose_next(features, probabilities, patients, 20))
    assert sorted(patients[position] for position in chosen) == [f"p{number}" for number in range(6)]


def test_the_same_seed_gives_the_same_choice():
    features, probabilities, patients = pool()
    first, again, other = (choose_next(features, probabilities, patients, 8, seed) for seed in (1, 1, 2))
    assert first == again
    assert positions(first) != positions(other)
    assert positions(choose_next(features, probabilities, patients, 3, 1)) == positions(first)[:3]


def test_findings_and_a_single_scan():
    assert positions(choose_next(np.ones((1, 4)), np.array([[0.45, 0.9]]), ["p"], 5, multilabel=True)) == [0]
    assert choose_next(np.ones((1, 4)), np.array([[1.0, 0.0]]), ["p"], 5) == []  # certain: no question


def test_wrong_arguments_are_refused():
    features, probabilities, patients = pool(0, 4)
    with pytest.raises(UsageError, match="4 features, 4 probabilities, 3 patients; expected one of each a scan"):
        choose_next(features, probabilities, patients[:3], 2)
    with pytest.raises(UsageError, match="0 scans to choose; expected at least 1"):
        choose_next(features, probabilities, patients, 0)
