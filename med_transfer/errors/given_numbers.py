"""Numbers that a Python caller gives, refused in words before the code would raise a bare error."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from med_transfer.errors import UsageError


def whole_number(value: Any, where: str, least: int, most: int | None = None) -> int:
    """Return a whole number, of Python or NumPy, that a caller gave; True and False are none.

    Raises:
        UsageError: the value is no whole number, or is out of range.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or int(value) < least or (most is not None and int(value) > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"found {reprlib.repr(value)}", where=where, expected=f"a whole number, {span}")
    return int(value)


def number_from(value: Any, where: str, least: float, expected: str = "") -> float:
    """Return a finite number that a caller gave, at least ``least``.

    Raises:
        UsageError: the value is no finite number, or is too low; ``expected`` describes what is.
    """
    if not is_finite(value) or value < least:
        raise UsageError(
            f"found {reprlib.repr(value)}", where=where, expected=expected or f"a number, at least {least:g}"
        )
    return float(value)


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number, of Python or NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def finite_numbers(values: Any, n: int) -> bool:
    """Whether ``values`` are ``n`` finite numbers, as in a tuple, a list or an array."""
    if not isinstance(values, Iterable) or isinstance(values, str):
        return False
    found = list(values)
    return len(found) == n and all(map(is_finite, found))
