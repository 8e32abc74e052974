"""Each method's fit to logits of scans that the network was not trained on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.isotonic import IsotonicRegression as SklearnIsotonic

from med_transfer.model.calibration.calibrators import (
    Calibrator,
    IsotonicRegression,
    RisingCurve,
    TemperatureScaling,
    Uncalibrated,
    VectorScaling,
    log_odds,
)
from med_transfer.model.calibration.config import FittedMethod

_TEMPERATURE_RANGE = (0.05, 20.0)


def fit(
    method: FittedMethod, logits: NDArray[np.floating], truth: NDArray[np.bool_], *, multilabel: bool
) -> Calibrator:
    """Fit one method, whatever the number of scans; ``logits`` and boolean ``truth`` are [scan, class]."""
    logits, n = np.asarray(logits, dtype=np.float64), len(truth)
    if method == "none":
        return Uncalibrated(n=n)
    if method == "temperature":
        return TemperatureScaling(temperature=fit_temperature(logits, truth, multilabel=multilabel), n=n)
    if method == "vector":
        return fit_vector(logits, truth, multilabel=multilabel)
    return fit_isotonic(logits, truth, multilabel=multilabel)


def smoothed(truth: NDArray[np.bool_], *, multilabel: bool) -> NDArray[np.float64]:
    """Truth with one pseudo-scan a class [scan, class] (Platt 1999).

    Without it a network that is right on every validation scan would be made infinitely sure.
    """
    scans, outcomes = len(truth), 2 if multilabel else truth.shape[1]
    return (scans * truth + 1) / (scans + outcomes)


def fit_temperature(logits: NDArray[np.floating], truth: NDArray[np.bool_], *, multilabel: bool = False) -> float:
    """The temperature T for which softmax(logits / T) (sigmoid for findings) fits the smoothed truth best.

    Args:
        logits, truth: [scan, class].
        multilabel: several findings a scan.

    Source: Guo et al. 2017, ICML, PMLR 70:1321.
    """
    logits, target = np.asarray(logits, dtype=np.float64), smoothed(truth, multilabel=multilabel)

    def loss(log_temperature: float) -> float:
        return _log_loss(logits / np.exp(log_temperature), target, multilabel=multilabel)

    minimum = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURE_RANGE)), method="bounded")
    return float(np.exp(minimum["x"]))


def fit_vector(logits: NDArray[np.float64], truth: NDArray[np.bool_], *, multilabel: bool) -> VectorScaling:
    """Scale and bias of each class that fit the smoothed truth best. A scale is never negative: that would turn a
    class's logit against it. Biases of exclusive classes sum to 0, as only their differences count."""
    target, n_classes = smoothed(truth, multilabel=multilabel), truth.shape[1]

    def loss_and_slope(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scaled = logits * parameters[:n_classes] + parameters[n_classes:]
        excess = ((expit(scaled) if multilabel else softmax(scaled, axis=1)) - target) / len(target)
        slope = np.concatenate([(excess * logits).sum(axis=0), excess.sum(axis=0)])
        return _log_loss(scaled, target, multilabel=multilabel) / len(target), slope

    limits = [(0.0, 1 / _TEMPERATURE_RANGE[0])] * n_classes + [(None, None)] * n_classes
    start = np.concatenate(
        [np.full(n_classes, 1 / fit_temperature(logits, truth, multilabel=multilabel)), np.zeros(n_classes)]
    )
    best = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", bounds=limits)["x"]
    scale, bias = best[:n_classes], best[n_classes:]
    if not multilabel:
        bias = bias - bias.mean()
    return VectorScaling(scale=tuple(scale.tolist()), bias=tuple(bias.tolist()), n=len(truth))


def fit_isotonic(logits: NDArray[np.float64], truth: NDArray[np.bool_], *, multilabel: bool) -> IsotonicRegression:
    """A rising curve of each class's smoothed truth over its log odds against the rest.

    Smoothing (Platt 1999) keeps every probability above 0 and below 1: n scans without a class do not prove that it
    never occurs at such log odds.
    """
    odds = log_odds(torch.from_numpy(logits), multilabel=multilabel).numpy()
    curves = [_rising_curve(odds[:, c], truth[:, c]) for c in range(truth.shape[1])]
    return IsotonicRegression(curves=tuple(curves), n=len(truth))


def _rising_curve(odds: NDArray[np.float64], has: NDArray[np.bool_]) -> RisingCurve:
    positives, negatives = int(has.sum()), int((~has).sum())
    target = np.where(has, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    fitted = SklearnIsotonic(out_of_bounds="clip").fit(odds, target)
    x, y = fitted.X_thresholds_, np.maximum.accumulate(fitted.y_thresholds_)
    return RisingCurve(log_odds=tuple(x.tolist()), probability=tuple(y.tolist()))


def _log_loss(logits: NDArray[np.float64], target: NDArray[np.float64], *, multilabel: bool) -> float:
    """Sum over scans (and findings)."""
    if multilabel:
        return -float((target * log_expit(logits) + (1 - target) * log_expit(-logits)).sum())
    return -float((target * log_softmax(logits, axis=1)).sum())
