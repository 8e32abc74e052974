"""Decision curves: net benefit of acting on a class's probability, against treating everyone and no one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics.calibration import too_few_patients
from med_transfer.metrics.intervals import PatientBootstrap, percentile_interval
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.decision_curve import DecisionCurve, NetBenefit

THRESHOLDS = (0.01, 0.02, 0.03, 0.05, 0.075, *(round(0.05 * step, 2) for step in range(2, 20)))


def decision_curves(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> dict[str, DecisionCurve]:
    """Return decision curves at :data:`THRESHOLDS` of every class with enough patients with and without it.

    The decision is based on the class's probability, not on the call at the operating point. The prevalence is that of
    these scans. Source: Vickers & Elkin 2006, Med Decis Making 26:565.
    """
    method = f"net benefit of acting on probabilities from the threshold on; {bootstrap}"
    return {
        name: DecisionCurve(
            points=_points(predictions.truth[:, c], predictions.probabilities[:, c], bootstrap), method=method
        )
        for c, name in enumerate(predictions.labels.names)
        if not too_few_patients(predictions, c)
    }


def benefit_by_scan(truth: NDArray[np.bool_], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the benefit of treating each scan, [scan, threshold]: 1 for a case, else minus the threshold's odds."""
    return np.where(truth[:, None], 1.0, -(thresholds / (1 - thresholds)))


def _points(
    truth: NDArray[np.bool_], probability: NDArray[np.float64], bootstrap: PatientBootstrap
) -> list[NetBenefit]:
    thresholds = np.array(THRESHOLDS)
    of_all = benefit_by_scan(truth, thresholds)
    of_model = of_all * (probability[:, None] >= thresholds)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        model, everyone = (weights @ each / weights.sum(axis=1, keepdims=True) for each in (of_model, of_all))
        return np.stack([model, everyone, model - np.maximum(everyone, 0)], axis=1)

    value, draws = bootstrap.observed(statistic), bootstrap.distribution(statistic)
    return [
        NetBenefit(
            threshold=threshold,
            net_benefit=float(value[0, k]),
            ci95=percentile_interval(draws[:, 0, k]),
            treat_all=float(value[1, k]),
            gain=float(value[2, k]),
            gain_ci95=percentile_interval(draws[:, 2, k]),
        )
        for k, threshold in enumerate(THRESHOLDS)
    ]
