"""Every measure of calibration of one model on one set of scans, each with its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics import measures
from med_transfer.metrics.calibration import (
    N_BINS,
    bin_excess,
    brier_decomposition,
    claims,
    combined,
    expected_calibration_error,
    reliability,
)
from med_transfer.metrics.calibration_metrics import Calibration, ClassCalibration
from med_transfer.metrics.estimate import Estimate, Interval
from med_transfer.metrics.intervals import PatientBootstrap, percentile_interval
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.recalibration import SMALLEST, binary_log_probability, intercept, slope


def calibration(scored: LabelledPredictions, bootstrap: PatientBootstrap) -> Calibration:
    """Overall and of each class."""
    names, multilabel = scored.labels.names, scored.labels.multilabel
    claimed, came_true = claims(scored.truth, scored.probabilities, multilabel=multilabel)
    of = "all findings" if multilabel else "the most probable class"
    by_class = {name: _of_class(scored, c, bootstrap) for c, name in enumerate(names)}
    return Calibration(
        brier=measures.brier(scored, bootstrap),
        ece=_ece(claimed, came_true, bootstrap, of),
        bins=reliability(claimed, came_true),
        mean_probability=dict(zip(names, scored.probabilities.mean(axis=0).tolist(), strict=True)),
        decomposition=combined([found.decomposition for found in by_class.values()], multilabel=multilabel),
        slope=_overall_slope(scored),
        intercept=intercept(*_pairs(scored)) if multilabel else None,
        classes=by_class,
    )


def _of_class(scored: LabelledPredictions, c: int, bootstrap: PatientBootstrap) -> ClassCalibration:
    truth, probability = scored.truth[:, c], np.clip(scored.probabilities[:, c], 0, 1)
    squared = (probability - truth) ** 2
    draws = bootstrap.distribution(lambda weights: weights @ squared / weights.sum(axis=1))
    binary = (binary_log_probability(probability), truth.astype(int), scored.patients)
    return ClassCalibration(
        brier=Estimate(value=float(squared.mean()), ci95=percentile_interval(draws), method=str(bootstrap)),
        decomposition=brier_decomposition(probability, truth),
        ece=_ece(probability, truth, bootstrap, "this class"),
        slope=slope(*binary),
        intercept=intercept(*binary),
    )


def _overall_slope(scored: LabelledPredictions) -> Estimate:
    if scored.labels.multilabel:
        return slope(*_pairs(scored))
    return slope(np.log(np.clip(scored.probabilities, SMALLEST, 1)), scored.truth.argmax(axis=1), scored.patients)


def _pairs(scored: LabelledPredictions) -> tuple[NDArray[np.float64], NDArray[np.intp], list[str]]:
    """Every pair of scan and finding as a scan of its own, of the scan's patient."""
    patients = [patient for patient in scored.patients for _ in scored.labels.names]
    return binary_log_probability(scored.probabilities.ravel()), scored.truth.ravel().astype(int), patients


def _ece(claimed: NDArray[np.float64], came_true: NDArray[np.bool_], bootstrap: PatientBootstrap, of: str) -> Estimate:
    value = expected_calibration_error(reliability(claimed, came_true))
    method = f"probability of {of}, {N_BINS} bins of equal width; {bootstrap.described('basic and distance')}"
    return Estimate(value=value, ci95=calibration_error_interval(claimed, came_true, bootstrap), method=method)


def calibration_error_interval(
    claimed: NDArray[np.float64], came_true: NDArray[np.bool_], bootstrap: PatientBootstrap
) -> Interval:
    """95 % interval of the expected calibration error of many scans.

    The error is the length of a vector, of each bin's claims minus what came true. Sampling makes it too long, and
    resampling makes it longer again, so that percentiles of the draws lie above the truth. The upper limit is therefore
    that of the basic bootstrap, which takes this off (Davison & Hinkley 1997, Bootstrap Methods, equation 5.6). At a
    perfect calibration that fails, where the lower limit should be 0: it is the error minus the distance that draws of
    the vector keep to it. ``docs/calibration.md`` has the measured coverage.

    Args:
        claimed, came_true: [claim]; the same number of claims a scan, scan by scan.
        bootstrap: of the scans' patients.
    """
    excess = bin_excess(claimed, came_true)
    centre, claims_a_scan = excess.mean(axis=0), len(claimed) // len(bootstrap.patients)
    by_scan = excess.reshape(len(bootstrap.patients), claims_a_scan, -1).mean(axis=1)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = weights @ by_scan / weights.sum(axis=1, keepdims=True)
        return np.abs(np.stack([drawn, drawn - centre], axis=1)).sum(axis=2)

    value, (errors, distances) = float(np.abs(centre).sum()), bootstrap.distribution(statistic).T
    low = value - float(np.percentile(distances, 97.5))
    high = 2 * value - float(np.percentile(errors, 2.5))
    return max(0.0, low), max(value, high)
