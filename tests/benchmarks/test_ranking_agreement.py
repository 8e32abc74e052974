"""The ranking before training, and its comparison with the results of fine-tuning."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranking_agreement import kendall_tau, ranking_quality, regret, weighted_tau
from scipy import stats

from med_transfer.errors import UsageError
from med_transfer.selection.ranking import RankingCriteria, alike_by_evidence, rank, tied_with_the_best

values = st.lists(st.integers(0, 5), min_size=2, max_size=8)


def contender(name, macro_auc, standard_error=0.02, log_me=0.0, cost=1.0):
    return RankingCriteria(name, macro_auc, standard_error, log_me, cost)


# The order


def test_a_clear_difference_of_the_probe_decides():
    placed = rank([contender("worse", 0.7, log_me=9, cost=0), contender("better", 0.8)], patients=1000)
    assert [one.name for one in placed] == ["better", "worse"]


def test_within_one_standard_error_logme_decides_and_then_cost():
    close = [
        contender("leader", 0.80, log_me=0.1),
        contender("evidence", 0.785, log_me=0.3),
        contender("cheap", 0.79, log_me=0.291, cost=0.5),
        contender("out", 0.77, log_me=5),
    ]
    tied = tied_with_the_best(close)
    assert [one.name for one in tied] == ["leader", "evidence", "cheap"]
    assert [one.name for one in alike_by_evidence(tied, 100)] == ["evidence", "cheap"]
    assert [one.name for one in rank(close, 100)] == ["cheap", "evidence", "leader", "out"]


@pytest.mark.parametrize(("scans", "first"), [(30, "small"), (99, "small"), (101, "large")])
def test_the_same_difference_of_logme_counts_once_there_are_scans_enough(scans, first):
    """A hundredth a scan is a third of a nat over 30 scans, and more than one over 101."""
    pair = [contender("large", 0.71, 0.08, log_me=-0.68, cost=14), contender("small", 0.68, 0.08, log_me=-0.69)]
    assert rank(pair, scans)[0].name == first


contenders = st.lists(
    st.builds(contender, st.text("abcdef", min_size=1), *(st.sampled_from([0.0, 0.5, 0.52, 0.6, 0.9]) for _ in "abcd")),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.name,
)


@given(contenders, st.sampled_from([1, 3, 1000]), st.randoms())
def test_the_order_holds_everyone_and_not_the_order_of_asking(listed, scans, random):
    placed = rank(listed, scans)
    assert sorted(one.name for one in placed) == sorted(one.name for one in listed)
    assert placed[0] in tied_with_the_best(listed)
    mixed = list(listed)
    random.shuffle(mixed)
    assert rank(mixed, scans) == placed


# Its evaluation


def tau_by_pairs(first, second):
    """Tau-b pair by pair."""
    score, here, there = 0, 0, 0
    for i, j in itertools.combinations(range(len(first)), 2):
        a, b = np.sign(first[i] - first[j]), np.sign(second[i] - second[j])
        score, here, there = score + a * b, here + a * a, there + b * b
    return score / math.sqrt(here * there) if here and there else None


@given(st.data(), values)
def test_kendall_tau_pair_by_pair_and_by_scipy(data, first):
    second = data.draw(st.lists(st.integers(0, 5), min_size=len(first), max_size=len(first)))
    found, expected = kendall_tau(first, second), tau_by_pairs(first, second)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected)
        assert found == pytest.approx(stats.kendalltau(first, second).statistic)
        assert weighted_tau(first, second) == pytest.approx(stats.weightedtau(first, second).statistic)


def test_regret_is_what_the_choice_cost():
    assert regret([3, 2, 1], [0.7, 0.9, 0.8]) == pytest.approx(0.2)
    assert regret([1, 2, 1], [0.7, 0.9, 0.8]) == 0
    assert regret([2, 2, 1], [0.7, 0.9, 0.8]) == pytest.approx(0.1)


def test_an_order_is_judged_by_names():
    quality = ranking_quality(["a", "b", "c"], {"c": 0.6, "a": 0.8, "b": 0.9})
    assert quality.kendall_tau == pytest.approx(1 / 3)
    assert (quality.regret, quality.chosen, quality.best, quality.n) == (pytest.approx(0.1), "a", "b", 3)
    assert ranking_quality(["a", "b"], {"a": 0.8, "b": 0.8}).kendall_tau is None


def test_a_mistake_among_the_best_weighs_more():
    results = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
    at_the_top, at_the_bottom = (ranking_quality(list(order), results) for order in ("bacd", "abdc"))
    assert at_the_top.kendall_tau == at_the_bottom.kendall_tau
    assert at_the_top.weighted_tau < at_the_bottom.weighted_tau


def test_what_cannot_be_judged():
    with pytest.raises(UsageError, match="an order of a, b and results of a; expected the same names in both"):
        ranking_quality(["a", "b"], {"a": 1.0})
    with pytest.raises(UsageError, match="NaN or infinite values; expected finite ones"):
        kendall_tau([1, 2], [0.5, np.nan])
    with pytest.raises(UsageError, match="expected two or more pairs"):
        regret([1], [1])
