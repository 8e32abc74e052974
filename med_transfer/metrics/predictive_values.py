"""Likelihood ratios, and predictive values at a stated prevalence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.binomial import Z95
from med_transfer.metrics.rates import Cells, rate_in
from med_transfer.metrics.reasons import all_called, no_case, no_other, none_called
from med_transfer.metrics.records.class_metrics import Counts
from med_transfer.metrics.records.estimate import Estimate

METHOD = "from sensitivity and specificity at the stated prevalence; logit method (Mercaldo 2007)"
_ADJUSTED = ", with two successes and two failures added to a rate of 0 or 1"

PredictiveValue = Literal["ppv", "npv"]
Sign = Literal["positive", "negative"]


@dataclass(frozen=True)
class EffectiveCounts:
    """2 x 2 table of one class against the rest, in effectively independent scans, which need not be integers."""

    true_positive: float
    false_positive: float
    true_negative: float
    false_negative: float


Table = Counts | EffectiveCounts


def predictive_value(which: PredictiveValue, prevalence: float, name: str, counts: Table) -> Estimate:
    """Return PPV or NPV at a prevalence in (0, 1) by Bayes' rule; undefined if a rate is, or nothing was called so.

    Assumes that sensitivity and specificity carry over: that cases are equally difficult, and that the other classes
    keep their relative shares.

    Args:
        which: ``ppv`` or ``npv``.
        prevalence: of the class.
        name: class name, for the reason.
        counts: 2 x 2 table of the class against the rest.

    Source: Mercaldo, Lau & Zhou 2007, Stat Med 26:2170; for the limits only, a rate of 0 or 1 is adjusted as in Agresti
    & Coull 1998, Am Stat 52:119.
    """
    if reason := _undefined_reason(name, counts, "positive" if which == "ppv" else "negative"):
        return Estimate.undefined(reason, METHOD)
    positives, negatives = _group_sizes(counts)
    # Right calls (positive or negative) come from one group, wrong ones from the other.
    right, wrong = (counts.true_positive, positives), (counts.false_positive, negatives)
    odds = prevalence / (1 - prevalence)
    if which == "npv":
        right, wrong, odds = (counts.true_negative, negatives), (counts.false_negative, positives), 1 / odds
    share_right, share_wrong = right[0] / right[1], wrong[0] / wrong[1]
    value = share_right * odds / (share_right * odds + share_wrong)
    low, high = _limits(right, wrong, odds)
    at_bound = {share_right, share_wrong} & {0, 1}
    return Estimate(
        value=value, ci95=(min(low, value), max(high, value)), method=METHOD + (_ADJUSTED if at_bound else "")
    )


def predictive_value_in(which: PredictiveValue, prevalence: float, cells: Cells) -> NDArray[np.float64]:
    """Return ``ppv`` or ``npv`` at a prevalence, in the shape of the cells; NaN where undefined."""
    sensitivity, specificity = rate_in("sensitivity", cells), rate_in("specificity", cells)
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    if which == "npv":
        right, wrong = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore"):
        return right / (right + wrong)


def _group_sizes(counts: Table) -> tuple[float, float]:
    """Scans with the class, and without it."""
    return counts.true_positive + counts.false_negative, counts.true_negative + counts.false_positive


def _undefined_reason(name: str, counts: Table, calls: Sign) -> str:
    """Why a measure of the positive or negative calls of a class is undefined; empty if it is defined."""
    positives, negatives = _group_sizes(counts)
    if not positives:
        return no_case(name)
    if not negatives:
        return no_other(name)
    if calls == "positive":
        return "" if counts.true_positive or counts.false_positive else none_called(name)
    return "" if counts.true_negative or counts.false_negative else all_called(name)


def _limits(right: tuple[float, float], wrong: tuple[float, float], odds: float) -> tuple[float, float]:
    (p, n), (q, m) = _proportion(*right), _proportion(*wrong)
    centre = math.log(p / q * odds)
    half = Z95 * math.sqrt((1 - p) / (p * n) + (1 - q) / (q * m))
    return float(expit(centre - half)), float(expit(centre + half))


def _proportion(hits: float, total: float) -> tuple[float, float]:
    """Share and total; adjusted at 0 and 1, where the logarithm or its variance is undefined."""
    if 0 < hits < total:
        return hits / total, total
    adjusted = total + Z95**2
    return (hits + Z95**2 / 2) / adjusted, adjusted


RATIO_METHOD = "log method (Simel 1991), 0.5 added to every cell where a count is 0"


def likelihood_ratio(name: str, counts: Table, which: Sign) -> Estimate:
    """Return sensitivity / (1 - specificity) if ``positive``, or (1 - sensitivity) / specificity if ``negative``.

    A ratio with a zero denominator is unbounded: its value is None, and the reason states the lower limit. A ratio of 0
    has a lower limit of 0. In both cases, and if the standard error is 0, the other limits are computed with 0.5 added
    to all four cells.

    Args:
        name: class name, for the reason.
        counts: 2 x 2 table of the class against the rest.
        which: ``positive`` or ``negative``.

    Source: Simel et al. 1991, J Clin Epidemiol 44:763; zero cells: Haldane 1956, Ann Hum Genet 20:309.
    """
    if reason := _undefined_reason(name, counts, which):
        return Estimate.undefined(reason, RATIO_METHOD)
    positives, negatives = _group_sizes(counts)
    above, below = counts.true_positive, counts.false_positive
    if which == "negative":
        above, below = counts.false_negative, counts.true_negative
    low, high = _ratio_limits(above, positives, below, negatives)
    if not below:
        return Estimate.undefined(_unbounded(name, which, low), RATIO_METHOD)
    value = (above / positives) / (below / negatives)
    return Estimate(value=value, ci95=(0.0 if not above else min(low, value), max(high, value)), method=RATIO_METHOD)


def _unbounded(name: str, which: Sign, low: float) -> Sentence:
    limit = f"{low:.2f}"
    if which == "positive":
        return Sentence(
            "no scan of another class was called {name}, so the ratio has no upper bound; its lower limit is {limit}",
            name=name,
            limit=limit,
        )
    return Sentence(
        "every scan of another class was called {name}, so the ratio has no upper bound; its lower limit is {limit}",
        name=name,
        limit=limit,
    )


def _ratio_limits(above: float, positives: float, below: float, negatives: float) -> tuple[float, float]:
    if not above or not below or (above == positives and below == negatives):
        above, below, positives, negatives = above + 0.5, below + 0.5, positives + 1, negatives + 1
    error = math.sqrt(1 / above - 1 / positives + 1 / below - 1 / negatives)
    ratio = (above / positives) / (below / negatives)
    return ratio * math.exp(-Z95 * error), ratio * math.exp(Z95 * error)
