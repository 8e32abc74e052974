"""Numbers as tables write them, and as sentences do: what is nearly all is not written as all."""

from __future__ import annotations

import math
from collections.abc import Sequence

_MOST_DECIMALS, _ROUNDING = 4, 1e-9


def is_number(text: str) -> bool:
    """Whether a cell of a table is a finite number to a reader."""
    try:
        return math.isfinite(float(text)) and "_" not in text  # "10_01" is a code
    except ValueError:
        return False


def whole_percent(share: float) -> str:
    """Without decimals; what is nearly all is not written as all, nor what is nearly none as none."""
    if 0.995 <= share < 1:
        return f"{min(share, 0.999):.1%}"
    return f"{max(share, 0.001):.1%}" if 0 < share <= 0.005 else f"{share:.0%}"


def threshold(value: float) -> str:
    """A probability from which on something is called, for example ``0.35``; one below 1 is not written as 1."""
    text = f"{value:.3g}"
    return text if float(text) not in (0.0, 1.0) or value in (0.0, 1.0) else told_apart(value, 3)


def told_apart(number: float, decimals: int, sign: str = "", of: Sequence[float] = (-1.0, 0.0, 1.0)) -> str:
    """With so many decimals, or more, four at most, where these would write it as one of ``of`` that it is not.

    What is nearer yet is written as lying that far off, as by :func:`whole_percent`.

    Args:
        number: a rate, an AUC, a difference, or a limit of its interval.
        decimals: that are enough for most numbers.
        sign: ``+`` for a difference.
        of: what a reader takes for certain, or what a verdict rests on.
    """
    number = next((mark for mark in of if math.isclose(number, mark, abs_tol=_ROUNDING)), number)
    for places in range(decimals, _MOST_DECIMALS + 1):
        text = f"{number:{sign}.{places}f}"
        if number in of or float(text) not in of:
            return text
    mark, least = round(number, _MOST_DECIMALS), 10.0**-_MOST_DECIMALS
    return f"{mark + math.copysign(least, number - mark):{sign}.{_MOST_DECIMALS}f}"
