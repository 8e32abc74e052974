"""Interval of a mean, or of a difference of means, from the interval of each part and how the parts vary together.

The method of variance estimates recovery, MOVER: the distance of a part to its own limit stands for its standard error,
on the side where it matters. So the interval inherits what score and exact intervals have over the bootstrap: a width
where nothing varies in the sample, and limits within the scale. Which limits of the parts hold in which case was chosen
by simulation, see docs/measured/intervals.md.

Sources: Zou & Donner 2008, Stat Med 27:1693; with correlated parts Zou 2007, Psychol Methods 12:399.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics.class_auc import auc_bound
from med_transfer.metrics.delong import placements
from med_transfer.metrics.effective_trials import by_patient, effective_trials
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.estimate import Interval

_FEWEST_CORRELATED = 5  # patients; of fewer a correlation is often near -1, and an interval may lose its width
Limits = Callable[[float, float], Interval | None]


@dataclass(frozen=True)
class Parts:
    """What a mean is made of.

    Attributes:
        values: [part].
        limits: lower and upper of each, [part, 2].
        influence: what each patient adds to each part's error, [patient, part].
    """

    values: NDArray[np.float64]
    limits: NDArray[np.float64]
    influence: NDArray[np.float64]

    def beside(self, other: Parts) -> Parts:
        """These and others of the same patients."""
        return Parts(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.limits, other.limits]),
            np.hstack([self.influence, other.influence]),
        )

    def combined(self, coefficients: NDArray[np.float64], unseen: float) -> Interval:
        """Interval of the sum of coefficient times part.

        Args:
            coefficients: [part].
            unseen: correlation of two parts of which one has no spread in the sample.
        """
        distances = np.abs(self.limits - self.values[:, None])  # where a part is subtracted, its upper limit lowers
        down, up = (coefficients * np.where(coefficients > 0, *sides) for sides in (distances.T, distances.T[::-1]))
        correlation, value = self._correlation(unseen), float(coefficients @ self.values)
        low, high = (np.sqrt(max(side @ correlation @ side, 0.0)) for side in (down, up))
        return float(value - low), float(value + high)

    def _correlation(self, unseen: float) -> NDArray[np.float64]:
        spread = np.sqrt((self.influence**2).sum(axis=0))
        if len(self.influence) < _FEWEST_CORRELATED:
            spread = np.zeros_like(spread)
        both = np.outer(spread, spread)
        correlation = np.where(both > 0, self.influence.T @ self.influence / np.where(both > 0, both, 1), unseen)
        np.fill_diagonal(correlation, 1.0)
        return correlation


def rate_parts(predictions: LabelledPredictions, limits: Limits, confidence: float = 0.95) -> Parts:
    """The rates that a balanced accuracy is the mean of: sensitivities, of findings specificities too.

    Where a patient has several scans the limits are those of the effective number of scans.

    Args:
        limits: of hits and trials, at ``confidence``; neither need be whole.
    """
    kinds = (predictions.truth, ~predictions.truth) if predictions.labels.multilabel else (predictions.truth,)
    rates = [
        rate_part(predictions, c, kind[:, c], limits, confidence)
        for c in np.flatnonzero(defined_classes(predictions)).tolist()
        for kind in kinds
    ]
    return reduce(Parts.beside, rates)


def rate_part(
    predictions: LabelledPredictions, c: int, among: NDArray[np.bool_], limits: Limits, confidence: float = 0.95
) -> Parts:
    """How often class ``c`` is called right among these scans, boolean [scan], of which there is one at least."""
    right = predictions.truth[:, c] == predictions.predicted[:, c]
    rate = float(right[among].mean())
    trials = effective_trials(right, among, predictions.patients, confidence)
    influence = by_patient(np.where(among, right - rate, 0) / among.sum(), predictions.patients)
    low, high = limits(rate * trials, trials) or (0.0, 1.0)
    return Parts(np.array([rate]), np.array([[low, high]]), influence[:, None])


def auc_parts(predictions: LabelledPredictions, confidence: float = 0.95) -> Parts:
    """One-against-the-rest AUCs of the classes that have one, with Newcombe's limits over patients."""
    found, influence = [], []
    for c, (truth, score) in enumerate(zip(predictions.truth.T, predictions.probabilities.T, strict=True)):
        if truth.all() or not truth.any():
            continue
        placement = placements(truth, score)
        value = float(placement[truth].mean())
        found.append((value, *(auc_bound(predictions, c, confidence) or (0.0, 1.0))))
        part = (placement - value) / np.where(truth, truth.sum(), (~truth).sum())
        influence.append(by_patient(part, predictions.patients))
    table = np.array(found)
    return Parts(table[:, 0], table[:, 1:], np.stack(influence, axis=1))


def defined_classes(predictions: LabelledPredictions) -> NDArray[np.bool_]:
    """Classes that a balanced accuracy counts, boolean [class]."""
    n_positive = predictions.truth.sum(axis=0)
    return (n_positive > 0) & (n_positive < len(predictions)) if predictions.labels.multilabel else n_positive > 0
