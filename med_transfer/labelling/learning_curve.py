"""Learning curve, performance by number of labelled patients: an inverse power law with an asymptote.

::

    y(n) = asymptote - (asymptote - start) * (n / smallest) ** -rate

It is the (1 - a) - b * n ** c of Figueroa et al. and the POW3 of Viering & Loog, written so that every parameter has a
meaning and every constraint is a simple bound: ``start``, the performance with the smallest subset, is in [0, 1],
``asymptote`` in [start, 1], and ``rate`` in [0.05, 2]. So for n >= smallest the curve never falls and stays in [0, 1].

Sources: Figueroa et al. 2012, BMC Med Inform Decis Mak 12:8 (the law, fitted by weighted nonlinear least squares);
Viering & Loog 2023, IEEE TPAMI 45:7799, arXiv:2103.10948 (which laws fit; not all learners have such a curve).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from med_transfer.errors import UsageError

PARAMETERS = 3
_RATES = (0.05, 2.0)
_FIRST_RATES = (0.3, 1.0)  # the sum of squares can have two minima


@dataclass(frozen=True)
class PowerLaw:
    """A learning curve.

    Attributes:
        smallest: number of labelled patients at which the curve starts.
        start: performance there, in [0, 1].
        asymptote: limit of the performance for many patients, in [start, 1].
        rate: exponent, in [0.05, 2]; with 0.5, four times the patients halve the distance from the asymptote.
    """

    smallest: float
    start: float
    asymptote: float
    rate: float

    def at(self, patients: ArrayLike) -> NDArray[np.float64]:
        """Performance in [0, 1] for numbers of labelled patients, at least ``smallest``, of any shape."""
        share_left = (np.asarray(patients, dtype=np.float64) / self.smallest) ** -self.rate
        return self.asymptote - (self.asymptote - self.start) * share_left

    def needed(self, target: float) -> float:
        """Number of labelled patients at which the curve reaches the target; infinite if it never does."""
        if target <= self.start:
            return self.smallest
        if target >= self.asymptote:
            return math.inf
        log_ratio = math.log((self.asymptote - self.start) / (self.asymptote - target)) / self.rate
        return self.smallest * math.exp(log_ratio) if log_ratio < 700 else math.inf


def fit_power_law(
    patients: ArrayLike, performance: ArrayLike, standard_errors: ArrayLike | None = None, near: PowerLaw | None = None
) -> PowerLaw:
    """Fit the power law by least squares, weighted by inverse variance.

    Args:
        patients: numbers of labelled patients [size], increasing, above 0.
        performance: [size], in [0, 1].
        standard_errors: of the performance [size], above 0; None: all equal.
        near: initial guess; None tries two initial rates and keeps the better fit.

    Raises:
        UsageError: fewer points than parameters, or values out of range.
    """
    sizes, values = np.asarray(patients, np.float64), np.asarray(performance, np.float64)
    errors = np.ones_like(sizes) if standard_errors is None else np.asarray(standard_errors, np.float64)
    _check(sizes, values, errors)
    ratios = sizes / sizes[0]

    def misfit(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        start, share, rate = parameters
        return (start + share * (1 - start) * (1 - ratios**-rate) - values) / errors

    def slope(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        start, share, rate = parameters
        risen = 1 - ratios**-rate
        by_rate = share * (1 - start) * np.log(ratios) * ratios**-rate
        return np.stack([1 - share * risen, (1 - start) * risen, by_rate], axis=1) / errors[:, None]

    bounds = ([0, 0, _RATES[0]], [1, 1, _RATES[1]])
    fits = [
        least_squares(misfit, np.clip(guess, *bounds), jac=slope, bounds=bounds, xtol=1e-6, ftol=1e-8)  # type: ignore[arg-type]
        for guess in _guesses(values, near)
    ]
    start, share, rate = min(fits, key=lambda fit: fit.cost).x
    return PowerLaw(float(sizes[0]), float(start), float(start + share * (1 - start)), float(rate))


def _guesses(values: NDArray[np.float64], near: PowerLaw | None) -> list[tuple[float, float, float]]:
    """Initial guesses: start, share of the range from start to 1 that is gained in the limit, and rate."""
    if near is not None:
        return [(near.start, (near.asymptote - near.start) / max(1 - near.start, 1e-6), near.rate)]
    room = max(1 - values[0], 1e-6)
    return [(values[0], max(values.max() - values[0], 0.0) / room + 0.1, rate) for rate in _FIRST_RATES]


def _check(sizes: NDArray[np.float64], values: NDArray[np.float64], errors: NDArray[np.float64]) -> None:
    if not sizes.shape == values.shape == errors.shape or sizes.ndim != 1 or len(sizes) < PARAMETERS:
        raise UsageError(
            f"{sizes.size} sizes, {values.size} values, {errors.size} errors",
            where="learning curve",
            expected=f"as many of each, at least {PARAMETERS}",
        )
    if sizes[0] <= 0 or (np.diff(sizes) <= 0).any():
        raise UsageError("sizes that do not rise", where="learning curve", expected="rising numbers above 0")
    if not ((values >= 0) & (values <= 1)).all() or not (errors > 0).all():
        raise UsageError(
            "a performance outside 0 to 1 or a standard error that is not above 0",
            where="learning curve",
            expected="finite values in range",
        )
