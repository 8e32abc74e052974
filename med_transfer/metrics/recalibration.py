"""Calibration slope and intercept by logistic recalibration, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from scipy.stats import t

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.binomial import Z95
from med_transfer.metrics.effective_trials import by_patient
from med_transfer.metrics.records.estimate import Estimate

SMALLEST = 1e-6  # probabilities are clipped to this, so that their logarithms exist
_STEPS, _TOLERANCE, _LARGEST = 50, 1e-9, 100.0
_NO_MAXIMUM = Sentence("no slope fits best: the classes' probabilities do not overlap, or only where they are equal")
_TOO_FEW = Sentence("no interval: there are too few patients")
_EXTREME = Sentence(
    "no interval: nearly every probability is 0 or 1, so that scans say next to nothing of the intercept"
)
_MIN_INFORMATION = 0.04  # of the intercept: a standard error of 5 log odds
_FLAT = 1e-9  # information below which a likelihood is flat in some direction, up to rounding
_NO_WIDTH = 1e-9
_EQUAL = Sentence("every scan has the same probability")


def binary_log_probability(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log probabilities [scan, 2] of not having and of having a class, from its probability [scan]."""
    inside = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.log(np.stack([1 - inside, inside], axis=1))


def slope(log_probability: NDArray[np.float64], truth: NDArray[np.intp], patients: Sequence[str]) -> Estimate:
    """Return the calibration slope: the best-fitting slope in softmax(slope x log p + intercepts).

    Each class but the first has a free intercept. For two columns this is logistic regression of the truth on the log
    odds.

    Args:
        log_probability: [scan, class], of exclusive classes.
        truth: [scan], column of each scan's class.
        patients: patient of each scan.

    Sources: Cox 1958, Biometrika 45:562; Van Calster et al. 2019, BMC Med 17:230; for several classes Van Hoorde et
    al. 2014, Stat Med 33:2585, with one slope for all.
    """
    n_classes = log_probability.shape[1]
    method = "logistic recalibration with free intercept" + ("s, one slope for all classes" if n_classes > 2 else "")
    if reason := _missing(truth, n_classes):
        return Estimate.undefined(reason, method)
    width = float(np.ptp(log_probability - log_probability[:, :1], axis=0).max())
    if width < 1e-9:
        return Estimate.undefined(_EQUAL, method)
    unit = min(width, 1.0)  # if probabilities hardly differ, a steep slope is no sign of separation
    intercepts = np.broadcast_to(np.eye(n_classes)[:, 1:], (len(truth), n_classes, n_classes - 1))
    design = np.concatenate([intercepts, log_probability[:, :, None] / unit], axis=2)
    return _scaled(_estimate(design, np.zeros_like(log_probability), truth, patients, method), 1 / unit)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    if estimate.value is None:
        return estimate
    limits = estimate.ci95 and (estimate.ci95[0] * factor, estimate.ci95[1] * factor)
    return estimate.model_copy(update={"value": estimate.value * factor, "ci95": limits})


def intercept(log_probability: NDArray[np.float64], truth: NDArray[np.intp], patients: Sequence[str]) -> Estimate:
    """Return the offset to the log odds of the second of two columns that makes the mean probability right."""
    method = "logistic recalibration with the slope held at 1"
    if reason := _missing(truth, 2):
        return Estimate.undefined(reason, method)
    design = np.broadcast_to(np.array([[0.0], [1.0]]), (len(truth), 2, 1))
    estimate = _estimate(design, log_probability, truth, patients, method)
    if estimate.ci95 is None or estimate.value is None:
        return estimate
    _, information = _derivatives(design, log_probability, truth, np.array([estimate.value]))
    if information[0, 0] > _MIN_INFORMATION:
        return estimate
    return estimate.model_copy(update={"ci95": None, "reason": _EXTREME})


def _missing(truth: NDArray[np.intp], n_classes: int) -> str:
    if len(np.unique(truth)) == n_classes:
        return ""
    if n_classes == 2:
        return Sentence("no case, or nothing but cases, among the evaluated scans")
    return Sentence("a class has no evaluated scan")


def _estimate(
    design: NDArray[np.float64],
    offset: NDArray[np.float64],
    truth: NDArray[np.intp],
    patients: Sequence[str],
    method: str,
) -> Estimate:
    """The last parameter of the fit with its Wald interval, over patients if some have several scans.

    Over patients the quantile is Student's, with as many degrees of freedom as patients minus one (Cameron & Miller
    2015, J Hum Resour 50:317): with the normal one, coverage for 3 to 10 patients was 81 to 91 %.
    """
    coefficients = _maximum(design, offset, truth)
    if coefficients is None:
        return Estimate.undefined(_NO_MAXIMUM, method)
    clustered = len(set(patients)) < len(patients)
    covariance = _covariance(design, offset, truth, coefficients, patients if clustered else None)
    n_patients, value = len(set(patients)), float(coefficients[-1])
    quantile = float(t.ppf(0.975, max(n_patients - 1, 1))) if clustered else Z95
    half = quantile * float(np.sqrt(covariance[-1, -1]))
    if clustered and (n_patients < 2 or half < _NO_WIDTH):  # the variation between patients cannot be estimated
        return Estimate(value=value, ci95=None, method=method, reason=_TOO_FEW)
    how = "Wald interval, sandwich variance over patients, Student's t" if clustered else "Wald interval"
    return Estimate(value=value, ci95=(value - half, value + half), method=f"{method}; {how}")


def _maximum(
    design: NDArray[np.float64], offset: NDArray[np.float64], truth: NDArray[np.intp]
) -> NDArray[np.float64] | None:
    """Maximum likelihood parameters by Newton's method, with steps halved where they overshoot.

    None if the likelihood has no maximum, as with perfect separation: then it either rises without end, or is so flat
    where rounding ends the rise that the end is arbitrary.
    """
    rows, parameters = np.arange(len(truth)), np.zeros(design.shape[2])

    def likelihood(at: NDArray[np.float64]) -> float:
        return float(log_softmax(offset + design @ at, axis=1)[rows, truth].sum())

    best = likelihood(parameters)
    for _ in range(_STEPS):
        score, information = _derivatives(design, offset, truth, parameters)
        try:
            step = np.linalg.solve(information, score.sum(axis=0))
        except np.linalg.LinAlgError:
            return None
        while (there := likelihood(parameters + step)) < best - _TOLERANCE and np.abs(step).max() > _TOLERANCE:
            step = step / 2
        parameters, best = parameters + step, there
        if np.abs(parameters).max() > _LARGEST:
            return None
        if np.abs(step).max() < _TOLERANCE:
            return parameters if np.linalg.eigvalsh(information)[0] > _FLAT else None
    return None


def _derivatives(
    design: NDArray[np.float64], offset: NDArray[np.float64], truth: NDArray[np.intp], at: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score of each scan [scan, parameter], and the information matrix [parameter, parameter]."""
    expected = softmax(offset + design @ at, axis=1)
    excess = np.eye(expected.shape[1])[truth] - expected
    centred = design - np.einsum("sc,scp->sp", expected, design)[:, None]
    return np.einsum("sc,scp->sp", excess, design), np.einsum("sc,scp,scq->pq", expected, centred, centred)


def _covariance(
    design: NDArray[np.float64],
    offset: NDArray[np.float64],
    truth: NDArray[np.intp],
    at: NDArray[np.float64],
    patients: Sequence[str] | None,
) -> NDArray[np.float64]:
    """Inverse information matrix; with patients, the sandwich over them (Liang & Zeger 1986, Biometrika 73:13)."""
    score, information = _derivatives(design, offset, truth, at)
    bread = np.linalg.inv(information).astype(np.float64)
    if patients is None:
        return bread
    summed = np.stack([by_patient(column, patients) for column in score.T], axis=1)
    n = len(summed)
    return bread @ (summed.T @ summed) @ bread * (n / max(n - 1, 1))
