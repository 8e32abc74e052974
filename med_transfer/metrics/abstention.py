"""Selective prediction: performance if the scans that the network is least certain of are left to a human."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics import measures
from med_transfer.metrics.class_rates import sensitivities
from med_transfer.metrics.combination import absent_classes
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.reasons import SCANS_CALLED
from med_transfer.metrics.records.metrics import AbstentionPoint
from med_transfer.model.calibration import log_prior_ratio, shifted
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

_MIN_REST = 0.01  # probability left to classes without a threshold
SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def certainty(probabilities: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
    """Return the certainty of each scan's probabilities, [scan], in [0, 1].

    With exclusive classes it is the largest probability. With several findings it is max(p, 1 - p) of the least certain
    finding. Both agree for two classes.

    Source: Hendrycks & Gimpel 2017, ICLR, arXiv:1610.02136 (maximum class probability).
    """
    if multilabel:
        return np.maximum(probabilities, 1 - probabilities).min(axis=1)
    return probabilities.max(axis=1)


def abstention_curve(predictions: LabelledPredictions, config: EvaluationConfig) -> list[AbstentionPoint]:
    """Return performance on the most certain scans, from all scans to few; equally certain scans stay together.

    The certainty limits come from the test scans themselves: the curve is descriptive, not a limit chosen beforehand.

    Source: El-Yaniv & Wiener 2010, JMLR 11:1605 (risk and coverage).
    """
    certain = certainty(_relative_to_thresholds(predictions), multilabel=predictions.labels.multilabel)
    falling = np.sort(certain)[::-1]
    limits = {float(falling[max(1, round(share * len(predictions))) - 1]) for share in SHARES}
    return [_point(predictions, certain >= limit, limit, config) for limit in sorted(limits)]


def _relative_to_thresholds(predictions: LabelledPredictions) -> NDArray[np.float64]:
    """Probabilities shifted so that thresholds lie at chance: the least certain scans are those near a threshold."""
    labels = predictions.labels
    limits = _limits(predictions.operating_point, labels)
    if limits is None:
        return predictions.probabilities
    ratio = log_prior_ratio(limits, multilabel=labels.multilabel)
    return shifted(predictions.probabilities, -ratio, multilabel=labels.multilabel)


def _limits(point: OperatingPoint, labels: Labels) -> list[float] | None:
    """Probability [class] at which each class is as good a call as any other; None if these are equal.

    Classes without a threshold share what the others leave. Of costs, it is inverse to the mean cost of missing the
    class. With two classes both are exact.
    """
    if point.rule == "argmax":
        return None
    if point.rule == "cost":
        inverse = np.array([1 / _mean_cost_of_missing(point, name) for name in labels.names])
        return (inverse / inverse.sum()).tolist()
    given = point.thresholds
    rest = max(1 - sum(given.values()), _MIN_REST) / max(len(labels) - len(given), 1)
    return [given.get(name, rest) for name in labels.names]


def _mean_cost_of_missing(point: OperatingPoint, name: str) -> float:
    row = {name: 0.0} | point.costs[name]
    return float(np.mean([cost - row[name] for called, cost in row.items() if called != name]))


def _point(
    predictions: LabelledPredictions,
    answered: NDArray[np.bool_],
    limit: float,
    config: EvaluationConfig,
) -> AbstentionPoint:
    answered_predictions = replace(predictions.take(answered), scans=SCANS_CALLED)
    truth = zip(predictions.labels.names, predictions.truth.T, strict=True)
    return AbstentionPoint(
        share=len(answered_predictions) / len(predictions),
        n_scans=len(answered_predictions),
        certainty=limit,
        called={name: float(answered[has].mean()) if has.any() else None for name, has in truth},
        sensitivity=sensitivities(answered_predictions, config),
        balanced_accuracy=measures.balanced_accuracy(answered_predictions),
        absent=absent_classes(answered_predictions),
    )
