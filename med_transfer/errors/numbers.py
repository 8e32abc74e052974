"""Number formatting for tables and sentences that never rounds "nearly all" to "all", or "nearly none" to "none"."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_MAX_DECIMALS, _ROUNDING = 4, 1e-9
_NEGATIVE = re.compile(r"(?<![\w.-])-(?=\.?\d)")  # not between the digits of a date or a name


def is_number(text: str) -> bool:
    """Whether the text of a table cell is a finite number."""
    try:
        return math.isfinite(float(text)) and "_" not in text  # "10_01" is a code, though float() accepts it
    except ValueError:
        return False


def counted(n: int, one: str, many: str = "") -> str:
    """``1 patient``, ``2 patients``; ``many`` is a plural that is not formed by an s."""
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def whole_percent(share: float) -> str:
    """A share in [0, 1] as a percentage without decimals, or with one where rounding would give 0 % or 100 %."""
    if 0.995 <= share < 1:
        return f"{min(share, 0.999):.1%}"
    return f"{max(share, 0.001):.1%}" if 0 < share <= 0.005 else f"{share:.0%}"


def significant(value: float, digits: int = 2) -> str:
    """A number with so many significant digits, large ones as whole numbers, without an exponent: 126, 4.2."""
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text


def threshold(value: float) -> str:
    """A decision threshold in [0, 1] with three significant digits; only exactly 0 and 1 are written as such."""
    text = f"{value:.3g}"
    return text if float(text) not in (0.0, 1.0) or value in (0.0, 1.0) else rounded(value, 3)


def with_minus_sign(text: str) -> str:
    """A number in text, or an interval of two, with the minus sign that pages use; other text has the hyphen."""
    return _NEGATIVE.sub("−", text)


def rounded(number: float, decimals: int, sign: str = "", of: Sequence[float] = (-1.0, 0.0, 1.0)) -> str:
    """Format a number with enough decimals, at most four, to tell it apart from the values in ``of``.

    A number that four decimals cannot tell apart is written 0.0001 away from that value.

    Args:
        number: a rate, an AUC, a difference, or a limit of its interval.
        decimals: how many to use where they suffice.
        sign: ``+`` to write the sign of positive numbers.
        of: values that a reader takes for certain, or that a conclusion depends on.
    """
    number = next((mark for mark in of if math.isclose(number, mark, abs_tol=_ROUNDING)), number)
    for places in range(decimals, _MAX_DECIMALS + 1):
        text = f"{number:{sign}.{places}f}"
        if number in of or float(text) not in of:
            return text
    mark, least = round(number, _MAX_DECIMALS), 10.0**-_MAX_DECIMALS
    return f"{mark + math.copysign(least, number - mark):{sign}.{_MAX_DECIMALS}f}"
