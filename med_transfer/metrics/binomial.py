"""Confidence intervals of a proportion and of the difference of two, and how many patients a wanted width needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from scipy.stats import beta, norm

from med_transfer.metrics.config import BinomialMethod
from med_transfer.metrics.records.estimate import Interval

BinomialInterval = Callable[[float, float], Interval | None]

Z95 = float(norm.ppf(0.975))
_TAIL = 0.025


def wilson(hits: float, total: float) -> Interval | None:
    """95 % score interval of the proportion hits / total; None when total is 0.

    Never leaves [0, 1] and does not collapse at 0 or ``total`` hits. Source: Wilson 1927, JASA 22:209.
    """
    if total <= 0:
        return None
    proportion, z2 = hits / total, Z95**2
    centre = (proportion + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * np.sqrt(proportion * (1 - proportion) / total + z2 / (4 * total**2))
    # The limit at a proportion of 0 or 1 is exact; rounding must not move it.
    low = 0.0 if hits <= 0 else float(centre - half)
    high = 1.0 if hits >= total else float(centre + half)
    return low, high


def clopper_pearson(hits: float, total: float, tail: float = _TAIL) -> Interval | None:
    """95 % interval that covers at least as often as it says, and often more; None when total is 0.

    Args:
        hits, total: a number of trials corrected for a design effect need not be whole.
        tail: probability outside on each side, for another confidence.

    Source: Clopper & Pearson 1934, Biometrika 26:404, by quantiles of the beta distribution.
    """
    if total <= 0:
        return None
    low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, total - hits + 1))
    high = 1.0 if hits >= total else float(beta.ppf(1 - tail, hits + 1, total - hits))
    return low, high


def jeffreys(hits: float, total: float) -> Interval | None:
    """95 % equal-tailed interval under Jeffreys' prior, Beta(1/2, 1/2); None when total is 0.

    The limit at 0 or ``total`` hits is 0 or 1, as the source advises. Source: Brown, Cai & DasGupta 2001, Stat Sci
    16:101, section 4.
    """
    if total <= 0:
        return None
    posterior = beta(hits + 0.5, total - hits + 0.5)
    low = 0.0 if hits <= 0 else float(posterior.ppf(_TAIL))
    high = 1.0 if hits >= total else float(posterior.ppf(1 - _TAIL))
    return low, high


BINOMIAL: Mapping[BinomialMethod, BinomialInterval] = MappingProxyType(
    {"wilson": wilson, "clopper-pearson": clopper_pearson, "jeffreys": jeffreys}
)
BINOMIAL_NAMES: Mapping[BinomialMethod, str] = MappingProxyType(
    {
        "wilson": "Wilson score interval",
        "clopper-pearson": "Clopper-Pearson exact interval",
        "jeffreys": "Jeffreys interval",
    }
)


def trials_for_width(proportion: float, width: float) -> int:
    """The least number of trials whose Wilson interval of ``proportion`` is at most ``width`` (in (0, 1)) wide.

    Solved from the interval's own formula, as Piegorsch 2004 (Comput Stat Data Anal 46:309) does: with
    x = z^2 / n and v = p (1 - p), the width is ``2 sqrt(v x + x^2 / 4) / (1 + x)``.
    """
    v, w2 = proportion * (1 - proportion), width**2
    # (1 - w2) x^2 + (4 v - 2 w2) x - w2 = 0, its positive root.
    linear = 4 * v - 2 * w2
    x = (-linear + np.sqrt(linear**2 + 4 * (1 - w2) * w2)) / (2 * (1 - w2))
    return int(np.ceil(round(Z95**2 / x, 6)))


def newcombe_paired(both: int, only_first: int, only_second: int, neither: int) -> Interval | None:
    """95 % interval of the first proportion minus the second, from Wilson's limits of each; None without patients.

    Has a width also where the two never differ, and stays within [-1, 1].

    Args:
        both, only_first, only_second, neither: patients by who of the two is right.

    Source: Newcombe 1998, Stat Med 17:2635, method 10.
    """
    n = both + only_first + only_second + neither
    first_interval, second_interval = wilson(both + only_first, n), wilson(both + only_second, n)
    if first_interval is None or second_interval is None:
        return None
    first, second = (both + only_first) / n, (both + only_second) / n
    correlation = _correlation(both, only_first, only_second, neither)

    def half(ours: float, theirs: float) -> float:
        return math.sqrt(max(ours**2 - 2 * correlation * ours * theirs + theirs**2, 0.0))

    low, high = (
        half(first - first_interval[0], second_interval[1] - second),
        half(second - second_interval[0], first_interval[1] - first),
    )
    return first - second - low, first - second + high


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi, with the continuity correction of the source where it is positive; 0 where a margin is empty."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not margins:
        return 0.0
    product = both * neither - only_first * only_second
    n = both + only_first + only_second + neither
    return (max(product - n / 2, 0.0) if product > 0 else product) / math.sqrt(margins)
