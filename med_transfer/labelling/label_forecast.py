"""Forecast of how many more labelled patients a target takes, or why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UsageError
from med_transfer.errors.numbers import rounded
from med_transfer.labelling.curve_samples import CurveSamples
from med_transfer.labelling.learning_curve import PARAMETERS, PowerLaw, fit_power_law

Outcome = Literal["reached", "forecast", "out of reach", "too few points"]
MULTIPLE = 5.0
MAX_MULTIPLE = 1000.0  # beyond it a curve of some tens of patients predicts nothing, and numbers overflow
_MIN_SIZES = PARAMETERS + 1
_MIN_SPAN = 2.0  # a curve measured over less than a doubling predicts nothing
_MIN_ERROR = 1e-3
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class Forecast:
    """The forecast of a learning curve for a target.

    Attributes:
        name: a class, or ``all classes``.
        target: performance to reach, in (0, 1).
        multiple: of the present training patients, up to which the curve is extrapolated.
        outcome: ``reached``: by the curve with the present patients; ``forecast``: with ``more`` of them; ``out of
            reach``: not within ``multiple``; ``too few points``: there is no curve.
        samples: the measurements.
        more: labelled patients to add, of the class or in all; None unless the outcome is ``forecast``.
        interval: 95 % interval of the patients to add, 0 where the target is reached. A limit is None if it is out of
            reach, and the whole is None with too few points.
        share_reaching: share of the resampled curves that reach the target within ``multiple``, in [0, 1].
        now: the curve's performance with the present patients, and its 95 % interval.
        reason: why there is no number; else empty.
        curve: fitted to the measurements; None with too few points.
        curves: fitted to the resamples.
    """

    name: str
    target: float
    multiple: float
    outcome: Outcome
    samples: CurveSamples
    more: int | None = None
    interval: tuple[int | None, int | None] | None = None
    share_reaching: float | None = None
    now: tuple[float, float, float] | None = None
    reason: str = ""
    curve: PowerLaw | None = None
    curves: tuple[PowerLaw, ...] = ()


def forecast(samples: CurveSamples, target: float, multiple: float = MULTIPLE) -> Forecast:
    """Fit a curve to the measurements and to each resample, and determine where they reach the target.

    New patients are assumed to be like the present ones: in the same class shares, and with the same part of them in
    training folds. So the patients needed in all are the labelled ones times the ratio of needed to present training
    patients.

    Args:
        samples: a measured curve and its resamples.
        target: performance to reach, above 0 and below 1.
        multiple: of the present training patients, up to which the curve is extrapolated; above 1, at most 1000.

    Raises:
        UsageError: a target or multiple out of range.
    """
    if not 0 < target < 1:
        raise UsageError(f"target {target}", expected="a performance above 0 and below 1")
    if not 1 < multiple <= MAX_MULTIPLE:
        raise UsageError(f"multiple {multiple}", expected=f"above 1, at most {MAX_MULTIPLE:g}")
    draws = samples.draws[np.isfinite(samples.draws).all(axis=1)][:_MAX_DRAWS]
    if reason := _too_few(samples, draws):
        return Forecast(samples.name, target, multiple, "too few points", samples, reason=reason)
    errors = _standard_errors(draws)
    curve = fit_power_law(samples.patients, samples.values, errors)
    curves = tuple(fit_power_law(samples.patients, draw, errors, near=curve) for draw in draws)
    return _forecast_from_curves(samples, target, multiple, curve, curves)


def _too_few(samples: CurveSamples, draws: NDArray[np.float64]) -> str:
    if not np.isfinite(samples.values).all() or 2 * len(draws) < len(samples.draws):
        return f"too few patients of {samples.name} to judge by"
    return too_few_sizes(samples.patients)


def too_few_sizes(sizes: NDArray[np.float64]) -> str:
    """Why a curve with these increasing numbers of patients cannot give a forecast; empty if it can.

    A size of 0 patients does not count.
    """
    sizes = sizes[sizes > 0]
    if len(sizes) < _MIN_SIZES:
        return f"{len(sizes)} sizes of training set; a curve of {PARAMETERS} parameters takes at least {_MIN_SIZES}"
    if sizes[-1] < _MIN_SPAN * sizes[0]:
        return f"the sizes reach from {sizes[0]:.0f} to {sizes[-1]:.0f} patients, less than {_MIN_SPAN:g} times as many"
    return ""


def _standard_errors(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of each point, with a lower limit: draws that happen to agree do not make a point certain."""
    errors = draws.std(axis=0)
    return np.maximum(errors, max(float(np.median(errors)) / 2, _MIN_ERROR))


def _forecast_from_curves(
    samples: CurveSamples, target: float, multiple: float, curve: PowerLaw, curves: tuple[PowerLaw, ...]
) -> Forecast:
    present = float(samples.patients[-1])
    ratios = np.array([resampled.needed(target) / present for resampled in curves])
    now, ratio = float(curve.at(present)), curve.needed(target) / present
    low, high = samples.interval(now, np.array([resampled.at(present) for resampled in curves])) or (0.0, 1.0)
    outcome: Outcome = "reached" if now >= target else "forecast" if ratio <= multiple else "out of reach"
    return Forecast(
        name=samples.name,
        target=target,
        multiple=multiple,
        outcome=outcome,
        samples=samples,
        more=_additional_patients(ratio, samples.labelled) if outcome == "forecast" else None,
        interval=_interval(ratios, multiple, samples.labelled),
        share_reaching=float((ratios <= multiple).mean()),
        now=(now, float(low), float(high)),
        reason=_reason_out_of_reach(curve, target, multiple) if outcome == "out of reach" else "",
        curve=curve,
        curves=curves,
    )


def _additional_patients(ratio: float, labelled: int) -> int:
    return max(0, math.ceil((ratio - 1) * labelled - 1e-9))


def _interval(ratios: NDArray[np.float64], multiple: float, labelled: int) -> tuple[int | None, int | None]:
    limits = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")  # no interpolation, as ratios can be infinite
    low, high = (_additional_patients(float(ratio), labelled) if ratio <= multiple else None for ratio in limits)
    return low, high


def _reason_out_of_reach(curve: PowerLaw, target: float, multiple: float) -> str:
    if curve.asymptote <= target:
        return f"the curve levels off at {rounded(curve.asymptote, 2, of=(0.0, 1.0, target))}"
    return f"the curve is below {target:g} with {multiple:g} times the patients at hand"


def rounded_up(number: int) -> int:
    """Round up to two significant digits, as a forecast is not more precise than that."""
    return -rounded_down(-number)


def rounded_down(number: int) -> int:
    """Round down to two significant digits."""
    step = 10 ** max(len(str(abs(number))) - 2, 0)
    return number // step * step
