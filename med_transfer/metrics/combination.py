"""Interval of a mean, or of a difference of means, from the intervals of the parts and their correlation.

Method of variance estimates recovery (MOVER): the distance of a part from its own limit replaces its standard error, on
the relevant side. The interval thus inherits the advantages of score and exact intervals over the bootstrap: a non-zero
width when nothing varies in the sample, and limits within the scale. Which limits are used in which case was chosen by
simulation, see docs/measured/intervals.md.

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

_FEWEST_CORRELATED = 5  # patients; of fewer, an estimated correlation is often near -1 and the interval may collapse
Limits = Callable[[float, float], Interval | None]


@dataclass(frozen=True)
class Parts:
    """Parts of a mean.

    Attributes:
        values: [part].
        limits: lower and upper limit of each part, [part, 2].
        influence: contribution of each patient to each part's error, [patient, part].
        measured: whether a part is measured on a patient, boolean [patient, part].
    """

    values: NDArray[np.float64]
    limits: NDArray[np.float64]
    influence: NDArray[np.float64]
    measured: NDArray[np.bool_]

    def beside(self, other: Parts) -> Parts:
        """Return these parts followed by others of the same patients."""
        return Parts(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.limits, other.limits]),
            np.hstack([self.influence, other.influence]),
            np.hstack([self.measured, other.measured]),
        )

    def combined(self, coefficients: NDArray[np.float64]) -> Interval:
        """Return the interval of the linear combination of the parts, with coefficients [part]."""
        distances = np.abs(self.limits - self.values[:, None])  # a subtracted part's upper limit lowers the result
        down, up = (coefficients * np.where(coefficients > 0, *sides) for sides in (distances.T, distances.T[::-1]))
        correlation, value = self._correlation(coefficients), float(coefficients @ self.values)
        low, high = (np.sqrt(max(side @ correlation @ side, 0.0)) for side in (down, up))
        return float(value - low), float(value + high)

    def _correlation(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Correlation of the parts' errors, estimated or, where a part has no spread or patients are few, assumed.

        The assumed correlation of two parts with coefficients of the same sign is the largest that their patients
        permit: 0 if they have none in common, 1 if they have the same. Four patients who are called right in each of
        two classes are then four observations, not eight. For opposite signs it is 0, since a positive one would narrow
        the interval.
        """
        spread = np.sqrt((self.influence**2).sum(axis=0))
        if len(self.influence) < _FEWEST_CORRELATED:
            spread = np.zeros_like(spread)
        both = np.outer(spread, spread)
        assumed = np.where(np.outer(coefficients, coefficients) > 0, self._overlap(), 0.0)
        correlation = np.where(both > 0, self.influence.T @ self.influence / np.where(both > 0, both, 1), assumed)
        np.fill_diagonal(correlation, 1.0)
        return correlation

    def _overlap(self) -> NDArray[np.float64]:
        """Patients that two parts share, over the geometric mean of their numbers of patients, [part, part]."""
        shared = self.measured.T.astype(np.float64) @ self.measured
        return shared / np.sqrt(np.outer(shared.diagonal(), shared.diagonal()))


def rate_parts(predictions: LabelledPredictions, limits: Limits, confidence: float = 0.95) -> Parts:
    """Return the rates that balanced accuracy averages: sensitivities, and for findings also specificities.

    Where patients have several scans, the limits use the effective number of scans.

    Args:
        predictions: the scans.
        limits: interval of hits and trials, which need not be integers, at ``confidence``.
        confidence: confidence level.
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
    """Return the rate of right calls of class ``c`` among the scans marked in boolean [scan], at least one."""
    right = predictions.truth[:, c] == predictions.predicted[:, c]
    rate = float(right[among].mean())
    trials = effective_trials(right, among, predictions.patients, confidence)
    influence = by_patient(np.where(among, right - rate, 0) / among.sum(), predictions.patients)
    low, high = limits(rate * trials, trials) or (0.0, 1.0)
    measured = by_patient(among.astype(np.float64), predictions.patients) > 0
    return Parts(np.array([rate]), np.array([[low, high]]), influence[:, None], measured[:, None])


def auc_parts(predictions: LabelledPredictions, confidence: float = 0.95) -> Parts:
    """Return the one-against-the-rest AUCs that are defined, with Newcombe's limits over patients."""
    found, influence = [], []
    for c, (truth, score) in enumerate(zip(predictions.truth.T, predictions.probabilities.T, strict=True)):
        if truth.all() or not truth.any():
            continue
        placement = placements(truth, score)
        value = float(placement[truth].mean())
        found.append((value, *(auc_bound(predictions, c, confidence) or (0.0, 1.0))))
        part = (placement - value) / np.where(truth, truth.sum(), (~truth).sum())
        influence.append(by_patient(part, predictions.patients))
    table, influences = np.array(found), np.stack(influence, axis=1)
    return Parts(table[:, 0], table[:, 1:], influences, np.ones_like(influences, dtype=bool))


def defined_classes(predictions: LabelledPredictions) -> NDArray[np.bool_]:
    """Return which classes balanced accuracy averages over, boolean [class]."""
    n_positive = predictions.truth.sum(axis=0)
    return (n_positive > 0) & (n_positive < len(predictions)) if predictions.labels.multilabel else n_positive > 0


def absent_classes(predictions: LabelledPredictions) -> list[str]:
    """Return the names of the other classes, which balanced accuracy is without."""
    return [
        name for name, there in zip(predictions.labels.names, defined_classes(predictions), strict=True) if not there
    ]
