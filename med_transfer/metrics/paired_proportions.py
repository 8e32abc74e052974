"""The difference of two proportions on the same patients, with an interval that holds in few of them."""

from __future__ import annotations

import math

from med_transfer.metrics.binomial import wilson
from med_transfer.metrics.estimate import Interval


def newcombe_paired(both: int, only_first: int, only_second: int, neither: int) -> Interval | None:
    """95 % interval of the first proportion minus the second, from Wilson's limits of each; None without patients.

    Has a width also where the two never differ, and stays within [-1, 1].

    Args:
        both, only_first, only_second, neither: patients by who of the two is right.

    Source: Newcombe 1998, Stat Med 17:2635, method 10.
    """
    n = both + only_first + only_second + neither
    one, two = wilson(both + only_first, n), wilson(both + only_second, n)
    if one is None or two is None:
        return None
    first, second = (both + only_first) / n, (both + only_second) / n
    correlation = _correlation(both, only_first, only_second, neither)

    def half(ours: float, theirs: float) -> float:
        return math.sqrt(max(ours**2 - 2 * correlation * ours * theirs + theirs**2, 0.0))

    low, high = half(first - one[0], two[1] - second), half(second - two[0], one[1] - first)
    return first - second - low, first - second + high


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi, with the continuity correction of the source where it is positive; 0 where a margin is empty."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not margins:
        return 0.0
    product = both * neither - only_first * only_second
    n = both + only_first + only_second + neither
    return (max(product - n / 2, 0.0) if product > 0 else product) / math.sqrt(margins)
