"""Two models on the same scans: the difference between them, paired patient by patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.binomial import newcombe_paired
from med_transfer.metrics.intervals import PatientBootstrap, is_degenerate, percentile_interval
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.rates import weighted_balanced_accuracy, weighted_rates
from med_transfer.metrics.reasons import NO_CLASS_WITH_BOTH, SOME_CLASS_MISSING
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.sentence import Sentence


@dataclass(frozen=True)
class Difference:
    """What the first model has more than the second; each an estimate in [-1, 1].

    Attributes:
        sensitivity: by class.
    """

    balanced_accuracy: Estimate
    macro_auc: Estimate
    sensitivity: dict[str, Estimate]


def paired_difference(
    first: LabelledPredictions, second: LabelledPredictions, bootstrap: PatientBootstrap
) -> Difference:
    """First minus second, both measured in the same resampled patients.

    Pairing removes what both models share: which patients happen to be easy. A sensitivity is of few patients, where
    percentiles are too narrow (docs/statistics.md): with one scan a patient it gets a score interval.

    Args:
        first, second: the same scans, truth and patients with two models' probabilities.
    """

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _measures(first, weights) - _measures(second, weights)

    values = statistic(np.ones((1, len(first))))[0]
    draws = bootstrap.distribution(statistic)
    method = Sentence("difference, paired {bootstrap}", bootstrap=bootstrap.described("percentile"))
    balanced, auc = (_estimate(values[k], draws[:, k], method) for k in range(2))
    by_class = {name: _of_class(values[2 + c], draws[:, 2 + c], method) for c, name in enumerate(first.labels.names)}
    if not first.clustered:
        by_class |= {
            name: paired_sensitivity(first, second, c)
            for c, name in enumerate(first.labels.names)
            if first.truth[:, c].any()
        }
    return Difference(balanced, auc, by_class)


def paired_sensitivity(first: LabelledPredictions, second: LabelledPredictions, c: int) -> Estimate:
    """Difference of the sensitivities for class ``c``, which has a scan, where each patient has one scan."""
    ours, theirs = (model.predicted[first.truth[:, c], c] for model in (first, second))
    cells = (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)
    interval = newcombe_paired(*(int(cell.sum()) for cell in cells))
    method = Sentence("difference; Newcombe's score interval for pairs")
    return Estimate(value=float(ours.mean() - theirs.mean()), ci95=interval, method=method)


def _measures(predictions: LabelledPredictions, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Balanced accuracy, macro AUC and each class's sensitivity, [draw, 2 + class]."""
    multilabel = predictions.labels.multilabel
    overall = [
        weighted_balanced_accuracy(predictions.truth, predictions.predicted, weights, multilabel=multilabel),
        weighted_macro_auc(predictions.truth, predictions.probabilities, weights),
    ]
    sensitivity = weighted_rates(predictions.truth, predictions.predicted, weights)["sensitivity"]
    return np.column_stack([*overall, sensitivity])


def _of_class(value: float, draws: NDArray[np.float64], method: str) -> Estimate:
    if not np.isfinite(value):
        return Estimate(value=None, ci95=None, method=method, reason=Sentence("no scan of this class"))
    if is_degenerate(draws):  # an interval without width would look like certainty
        reason = Sentence("every resample agrees: the scans of this class are called alike, or too few")
        return Estimate(value=float(value), ci95=None, method=method, reason=reason)
    return _estimate(value, draws, method)


def _estimate(value: float, draws: NDArray[np.float64], method: str) -> Estimate:
    if not np.isfinite(value):
        return Estimate(value=None, ci95=None, method=method, reason=NO_CLASS_WITH_BOTH)
    interval = percentile_interval(draws)
    reason = "" if interval else SOME_CLASS_MISSING
    return Estimate(value=float(value), ci95=interval, method=method, reason=reason)
