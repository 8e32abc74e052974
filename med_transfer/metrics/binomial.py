"""Confidence intervals of a proportion and of a paired difference, and the sample size for a given width."""

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
    """Return the 95 % Wilson score interval of the proportion hits / total; None when total is 0.

    It stays within [0, 1] and does not collapse at 0 or ``total`` hits. Source: Wilson 1927, JASA 22:209.
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
    """Return the Clopper-Pearson interval, 95 % by default; None when total is 0.

    It is conservative: its coverage is at least the nominal one.

    Args:
        hits, total: need not be integers, for example after correction for a design effect.
        tail: probability outside the interval on each side.

    Source: Clopper & Pearson 1934, Biometrika 26:404, by quantiles of the beta distribution.
    """
    if total <= 0:
        return None
    low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, total - hits + 1))
    high = 1.0 if hits >= total else float(beta.ppf(1 - tail, hits + 1, total - hits))
    return low, high


def jeffreys(hits: float, total: float) -> Interval | None:
    """Return the 95 % equal-tailed interval under Jeffreys' prior, Beta(1/2, 1/2); None when total is 0.

    At 0 or ``total`` hits the limit is set to 0 or 1, as the source advises. Source: Brown, Cai & DasGupta 2001, Stat
    Sci 16:101, section 4.
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
    """Return the smallest number of trials whose Wilson interval of ``proportion`` is at most ``width`` wide.

    Both lie in (0, 1). The interval's formula is solved for n as in Piegorsch 2004 (Comput Stat Data Anal 46:309): with
    x = z^2 / n and v = p (1 - p), the width is ``2 sqrt(v x + x^2 / 4) / (1 + x)``.
    """
    v, w2 = proportion * (1 - proportion), width**2
    # (1 - w2) x^2 + (4 v - 2 w2) x - w2 = 0, its positive root.
    linear = 4 * v - 2 * w2
    x = (-linear + np.sqrt(linear**2 + 4 * (1 - w2) * w2)) / (2 * (1 - w2))
    return int(np.ceil(round(Z95**2 / x, 6)))


def newcombe_paired(both: int, only_first: int, only_second: int, neither: int) -> Interval | None:
    """Return the 95 % interval of a paired difference of proportions, first minus second; None without patients.

    It combines the Wilson limits of each, stays within [-1, 1], and has a non-zero width even if the two never differ.

    Args:
        both, only_first, only_second, neither: number of patients that both models, only one, or neither got right.

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
    """Phi coefficient, with the source's continuity correction where it is positive; 0 if a margin is empty."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not margins:
        return 0.0
    product = both * neither - only_first * only_second
    n = both + only_first + only_second + neither
    return (max(product - n / 2, 0.0) if product > 0 else product) / math.sqrt(margins)
