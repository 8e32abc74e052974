"""Two models on the same scans: the difference between them, paired patient by patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.evaluation.auc import weighted_macro_auc
from med_transfer.evaluation.estimate import Estimate
from med_transfer.evaluation.intervals import PatientBootstrap, percentile_interval
from med_transfer.evaluation.rates import weighted_balanced_accuracy
from med_transfer.evaluation.scored import ScoredScans


@dataclass(frozen=True)
class Difference:
    """What the first model has more than the second; each an estimate in [-1, 1]."""

    balanced_accuracy: Estimate
    macro_auc: Estimate


def paired_difference(first: ScoredScans, second: ScoredScans, bootstrap: PatientBootstrap) -> Difference:
    """First minus second, both measured in the same resampled patients.

    Pairing removes what both models share: which patients happen to be easy.

    Args:
        first, second: the same scans, truth and patients with two models' probabilities.
    """

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _overall(first, weights) - _overall(second, weights)

    values = statistic(np.ones((1, len(first))))[0]
    draws = bootstrap.distribution(statistic)
    method = f"difference, paired {bootstrap}"
    balanced, auc = (_estimate(values[k], draws[:, k], method) for k in range(2))
    return Difference(balanced_accuracy=balanced, macro_auc=auc)


def _overall(scored: ScoredScans, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Balanced accuracy and macro AUC, [draw, 2]."""
    multilabel = scored.labels.multilabel
    return np.stack(
        [
            weighted_balanced_accuracy(scored.truth, scored.predicted, weights, multilabel=multilabel),
            weighted_macro_auc(scored.truth, scored.probabilities, weights),
        ],
        axis=1,
    )


def _estimate(value: float, draws: NDArray[np.float64], method: str) -> Estimate:
    if not np.isfinite(value):
        return Estimate(value=None, ci95=None, method=method, reason="no class has both cases and other scans")
    interval = percentile_interval(draws)
    reason = "" if interval else "no interval: some class is missing from most resamples, there are too few patients"
    return Estimate(value=float(value), ci95=interval, method=method, reason=reason)
