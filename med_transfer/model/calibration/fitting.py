"""Fit each calibration method to logits of scans that the network was not trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
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

_STEEPEST = 20.0  # largest scale of a class's logit
# Standard deviations of the Gaussian priors on log temperature and bias, which regularise the fit to few scans.
SPREAD_OF_LOG_TEMPERATURE = 0.5
SPREAD_OF_BIAS = 0.7


def fit(
    method: FittedMethod,
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_],
    prior: NDArray[np.float64] | None = None,
    *,
    multilabel: bool,
) -> Calibrator:
    """Fit one method, without a check that there are enough scans for it.

    Args:
        method: the method to fit.
        logits: [scan, class].
        truth: boolean [scan, class].
        prior: [class], known offset to add to the logits, see :func:`.prior.log_prior_ratio`; None for 0. ``vector``
            and ``isotonic`` ignore it and learn it from the scans.
        multilabel: whether a scan may have several findings.
    """
    logits, n = np.asarray(logits, dtype=np.float64), len(truth)
    prior = np.zeros(truth.shape[1]) if prior is None else prior
    if method == "none":
        return Uncalibrated(bias=tuple(prior.tolist()) if prior.any() else (), n=n)
    if method == "temperature":
        return fit_temperature(logits, truth, prior, multilabel=multilabel)
    if method == "vector":
        return fit_vector(logits, truth, multilabel=multilabel)
    return fit_isotonic(logits, truth, multilabel=multilabel)


def smoothed(truth: NDArray[np.bool_], *, multilabel: bool) -> NDArray[np.float64]:
    """Return truth [scan, class] smoothed by one pseudo-scan per class (Platt 1999).

    Without it, a network that is right on every validation scan would be scaled to infinite confidence.
    """
    scans, outcomes = len(truth), 2 if multilabel else truth.shape[1]
    shares = (truth.sum(axis=0) + 1) / (scans + outcomes)
    return (scans * truth + outcomes * shares) / (scans + outcomes)


def fit_temperature(
    logits: NDArray[np.float64], truth: NDArray[np.bool_], prior: NDArray[np.float64], *, multilabel: bool
) -> TemperatureScaling:
    """Fit temperature T and bias b of softmax(logits / T + b) (sigmoid for findings) by maximum a posteriori.

    log T has a Gaussian prior around 0, and b one around ``prior``. With many scans they have no effect; with few they
    keep the fit near no scaling and the confidence finite.

    Sources: Guo et al. 2017, ICML, PMLR 70:1321; with a bias per class Alexandari et al. 2020, ICML, PMLR 119:222.
    """
    target, n_classes = truth.astype(np.float64), truth.shape[1]

    def loss_and_slope(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_temperature, own = parameters[0], parameters[1:]
        scaled = logits / np.exp(log_temperature)
        calibrated = scaled + prior + own
        excess = _probabilities(calibrated, multilabel=multilabel) - target
        slope = [log_temperature / SPREAD_OF_LOG_TEMPERATURE**2 - (excess * scaled).sum()]
        penalty = (log_temperature / SPREAD_OF_LOG_TEMPERATURE) ** 2 / 2 + ((own / SPREAD_OF_BIAS) ** 2).sum() / 2
        of_bias = excess.sum(axis=0) + own / SPREAD_OF_BIAS**2
        return _log_loss(calibrated, target, multilabel=multilabel) + penalty, np.concatenate([slope, of_bias])

    best = minimize(loss_and_slope, np.zeros(1 + n_classes), jac=True, method="L-BFGS-B")["x"]
    return TemperatureScaling(temperature=float(np.exp(best[0])), bias=tuple((prior + best[1:]).tolist()), n=len(truth))


def fit_vector(logits: NDArray[np.float64], truth: NDArray[np.bool_], *, multilabel: bool) -> VectorScaling:
    """Fit scale and bias of each class to the smoothed truth by minimum log loss.

    Scales are non-negative, since a negative one would reverse a class's logit. Biases of exclusive classes sum to 0,
    as only their differences matter.
    """
    target, n_classes = smoothed(truth, multilabel=multilabel), truth.shape[1]

    def loss_and_slope(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scaled = logits * parameters[:n_classes] + parameters[n_classes:]
        excess = (_probabilities(scaled, multilabel=multilabel) - target) / len(target)
        slope = np.concatenate([(excess * logits).sum(axis=0), excess.sum(axis=0)])
        return _log_loss(scaled, target, multilabel=multilabel) / len(target), slope

    limits = [(0.0, _STEEPEST)] * n_classes + [(None, None)] * n_classes
    start = np.repeat([1.0, 0.0], n_classes)
    best = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", bounds=limits)["x"]
    scale, bias = best[:n_classes], best[n_classes:]
    if not multilabel:
        bias = bias - bias.mean()
    return VectorScaling(scale=tuple(scale.tolist()), bias=tuple(bias.tolist()), n=len(truth))


def fit_isotonic(logits: NDArray[np.float64], truth: NDArray[np.bool_], *, multilabel: bool) -> IsotonicRegression:
    """Fit, for each class, a monotone curve of the smoothed truth over the log odds against the rest.

    Smoothing (Platt 1999) keeps every probability between 0 and 1: n scans without a class do not prove that it never
    occurs at these log odds.
    """
    odds = log_odds(logits, multilabel=multilabel)
    curves = [_rising_curve(odds[:, c], truth[:, c]) for c in range(truth.shape[1])]
    return IsotonicRegression(curves=tuple(curves), n=len(truth))


def _rising_curve(odds: NDArray[np.float64], has: NDArray[np.bool_]) -> RisingCurve:
    positives, negatives = int(has.sum()), int((~has).sum())
    target = np.where(has, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    fitted = SklearnIsotonic(out_of_bounds="clip").fit(odds, target)
    x, y = fitted.X_thresholds_, np.maximum.accumulate(fitted.y_thresholds_)
    return RisingCurve(log_odds=tuple(x.tolist()), probability=tuple(y.tolist()))


def _probabilities(logits: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
    return expit(logits) if multilabel else softmax(logits, axis=1)


def _log_loss(logits: NDArray[np.float64], target: NDArray[np.float64], *, multilabel: bool) -> float:
    """Log loss, summed over scans (and findings)."""
    if multilabel:
        return -float((target * log_expit(logits) + (1 - target) * log_expit(-logits)).sum())
    return -float((target * log_softmax(logits, axis=1)).sum())
