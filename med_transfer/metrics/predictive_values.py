"""What a call would mean where the class is rarer or more common than among the test scans."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from med_transfer.errors import UsageError
from med_transfer.metrics.binomial import Z95
from med_transfer.metrics.estimate import Estimate
from med_transfer.metrics.rates import Cells, Counts, rate_in
from med_transfer.predictions.labels import Labels

METHOD = "from sensitivity and specificity at the stated prevalence; logit method (Mercaldo 2007)"
_ADJUSTED = ", with two successes and two failures added to a rate of 0 or 1"


def ppv_at(prevalence: float, name: str, counts: Counts) -> Estimate:
    """PPV at a prevalence in (0, 1) by Bayes' rule; None where sensitivity or specificity is, or nothing is called.

    Assumes that sensitivity and specificity stay what they are here: that the cases are as hard to see, and that the
    other classes keep their shares among each other.

    Source: Mercaldo, Lau & Zhou 2007, Stat Med 26:2170; a rate of 0 or 1 is adjusted by Agresti & Coull 1998, Am Stat
    52:119, for the limits only.
    """
    return _at(prevalence, name, counts, "positive")


def npv_at(prevalence: float, name: str, counts: Counts) -> Estimate:
    """NPV at a prevalence in (0, 1); as :func:`ppv_at`."""
    return _at(prevalence, name, counts, "negative")


def predictive_value_in(which: str, prevalence: float, cells: Cells) -> NDArray[np.float64]:
    """``ppv`` or ``npv`` at a prevalence, in the shape of the cells; NaN where undefined."""
    sensitivity, specificity = rate_in("sensitivity", cells), rate_in("specificity", cells)
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    if which == "npv":
        right, wrong = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore"):
        return right / (right + wrong)


def checked_prevalence(stated: dict[str, float], labels: Labels) -> dict[str, float]:
    """The same. Raises UsageError for a name that is no class, and where classes that exclude each other sum over 1."""
    unknown = sorted(set(stated) - set(labels.names))
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)} is no class", where="prevalence", expected=f"one of {', '.join(labels.names)}"
        )
    if not labels.multilabel and (total := sum(stated.values())) > 1 + 1e-9:
        raise UsageError(
            f"shares that sum to {total:g}", where="prevalence", expected="at most 1, as a scan has one class"
        )
    return stated


def read_prevalence(words: Sequence[str]) -> dict[str, float]:
    """From ``CLASS=0.1`` each. Raises UsageError."""
    return dict(_read(word) for word in words)


def _read(word: str) -> tuple[str, float]:
    name, _, number = word.rpartition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not name or not 0 < share < 1:
        raise UsageError(
            f"{word!r}", where="--prevalence", expected="CLASS=SHARE with a share between 0 and 1, as malignant=0.1"
        )
    return name.strip(), share


def _at(prevalence: float, name: str, counts: Counts, which: str) -> Estimate:
    cases, others = counts.true_positive + counts.false_negative, counts.true_negative + counts.false_positive
    if not cases or not others:
        lacking = f"class {name}" if not cases else f"another class than {name}"
        return Estimate(value=None, ci95=None, method=METHOD, reason=f"no scan of {lacking} among the test scans")
    # Of those who get this call (positive or negative), the right ones come from one group, the wrong from the other.
    right, wrong = (counts.true_positive, cases), (counts.false_positive, others)
    odds = prevalence / (1 - prevalence)
    if which == "negative":
        right, wrong, odds = (counts.true_negative, others), (counts.false_negative, cases), 1 / odds
    if not right[0] and not wrong[0]:
        every = "no test scan was" if which == "positive" else "every test scan was"
        return Estimate(value=None, ci95=None, method=METHOD, reason=f"{every} called {name}")
    share_right, share_wrong = right[0] / right[1], wrong[0] / wrong[1]
    value = share_right * odds / (share_right * odds + share_wrong)
    low, high = _limits(right, wrong, odds)
    at_bound = {right[0], wrong[0]} & {0} or right[0] == right[1] or wrong[0] == wrong[1]
    return Estimate(
        value=value, ci95=(min(low, value), max(high, value)), method=METHOD + (_ADJUSTED if at_bound else "")
    )


def _limits(right: tuple[int, int], wrong: tuple[int, int], odds: float) -> tuple[float, float]:
    (p, n), (q, m) = _proportion(*right), _proportion(*wrong)
    centre = math.log(p / q * odds)
    half = Z95 * math.sqrt((1 - p) / (p * n) + (1 - q) / (q * m))
    return float(expit(centre - half)), float(expit(centre + half))


def _proportion(hits: int, total: int) -> tuple[float, float]:
    """Share and total; adjusted at 0 and 1, where the logarithm or its variance does not exist."""
    if 0 < hits < total:
        return hits / total, total
    adjusted = total + Z95**2
    return (hits + Z95**2 / 2) / adjusted, adjusted
