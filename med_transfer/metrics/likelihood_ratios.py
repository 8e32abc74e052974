"""How much a call changes the odds of the class: likelihood ratios with their interval by logarithms."""

from __future__ import annotations

import math
from typing import Literal

from med_transfer.metrics.binomial import Z95
from med_transfer.metrics.estimate import Estimate
from med_transfer.metrics.rates import Counts

METHOD = "log method (Simel 1991), 0.5 added to every cell where a count is 0"

_UNBOUNDED = {
    "positive": "no scan of another class was called {name}, so the ratio has no upper bound{limit}",
    "negative": "every scan of another class was called {name}, so the ratio has no upper bound{limit}",
}


def likelihood_ratio(name: str, counts: Counts, which: Literal["positive", "negative"]) -> Estimate:
    """``positive``: sensitivity / (1 - specificity); ``negative``: (1 - sensitivity) / specificity.

    Zero cells: a ratio of 0 is 0 and its lower limit 0. A ratio with 0 below has no bound: its value is None, and the
    reason tells the lower limit. In both, and where the standard error is 0, 0.5 is added to all four cells for the
    limits only.

    Args:
        name: of the class, for the reason.
        counts: of the class against the rest.

    Source: Simel et al. 1991, J Clin Epidemiol 44:763; zero cells: Haldane 1956, Ann Hum Genet 20:309.
    """
    above, cases, below, others = _parts(counts, which)
    if not cases or not others:
        lacking = f"class {name}" if not cases else f"another class than {name}"
        return Estimate(value=None, ci95=None, method=METHOD, reason=f"no scan of {lacking} among the test scans")
    if not above and not below:
        every = "no test scan was" if which == "positive" else "every test scan was"
        return Estimate(value=None, ci95=None, method=METHOD, reason=f"{every} called {name}")
    low, high = _limits(above, cases, below, others)
    if not below:
        reason = _UNBOUNDED[which].format(name=name, limit=f"; its lower limit is {low:.2f}")
        return Estimate(value=None, ci95=None, method=METHOD, reason=reason)
    value = (above / cases) / (below / others)
    return Estimate(value=value, ci95=(0.0 if not above else min(low, value), max(high, value)), method=METHOD)


def _parts(counts: Counts, which: Literal["positive", "negative"]) -> tuple[int, int, int, int]:
    """Hits among the cases, cases, hits among the others, others: the two proportions of the ratio."""
    cases = counts.true_positive + counts.false_negative
    others = counts.true_negative + counts.false_positive
    if which == "positive":
        return counts.true_positive, cases, counts.false_positive, others
    return counts.false_negative, cases, counts.true_negative, others


def _limits(above: float, cases: float, below: float, others: float) -> tuple[float, float]:
    if not above or not below or (above == cases and below == others):
        above, below, cases, others = above + 0.5, below + 0.5, cases + 1, others + 1
    error = math.sqrt(1 / above - 1 / cases + 1 / below - 1 / others)
    ratio = (above / cases) / (below / others)
    return ratio * math.exp(-Z95 * error), ratio * math.exp(Z95 * error)
