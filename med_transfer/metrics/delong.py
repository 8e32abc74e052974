"""The variance of an AUC and of the difference of two, without resampling: DeLong's, in the fast form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata, t

from med_transfer.metrics.records.estimate import Interval

_NOTHING = 1e-20  # a variance of rounding errors


@dataclass(frozen=True)
class AucDifference:
    """First minus second.

    Attributes:
        value: of the (macro) AUCs.
        variance: of the difference over new scans with as many of each class.
    """

    value: float
    variance: float

    @property
    def p_value(self) -> float | None:
        """Two-sided; None when the variance is 0 although the AUCs differ."""
        if self.variance > 0:
            return float(2 * norm.sf(abs(self.value) / math.sqrt(self.variance)))
        return 1.0 if self.value == 0 else None

    def p_above(self, least: float) -> float | None:
        """One-sided, of the hypothesis that the difference is at most ``least``; None when the variance is 0."""
        return float(norm.sf((self.value - least) / math.sqrt(self.variance))) if self.variance > 0 else None


def delong(
    truth: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64], *, multilabel: bool
) -> AucDifference | None:
    """Difference of two models' macro AUC on the same scans, each of another patient.

    With two classes this is DeLong's test. With more, the macro AUC is the mean of AUCs that share scans: each scan's
    part in all of them is summed first, and its variance taken within each true class. Several findings a scan have no
    true class to go by; the variance is then taken over all scans.

    Args:
        truth: boolean [scan, class].
        first, second: probabilities [scan, class].

    Returns:
        None where no class has cases and others, or a class has a single scan.

    Source: DeLong et al. 1988, Biometrics 44:837; Sun & Xu 2014, IEEE SPL 21:1389 (by ranks, O(n log n)).
    """
    if (parts := _macro_parts(truth, first, second, multilabel=multilabel)) is None:
        return None
    value, of_scan, groups = parts
    variance = sum(_variance_of_sum(of_scan[groups == group]) for group in np.unique(groups))
    return AucDifference(value, float(variance))


def auc_difference_interval(
    truth: NDArray[np.bool_],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    patients: Sequence[str],
    *,
    multilabel: bool,
    confidence: float = 0.95,
) -> Interval | None:
    """Of two models' macro AUCs on the same patients: DeLong's variance over patients, Student's t.

    The variance comes from as few placements as the rarest class has patients, so that a normal quantile would be too
    small. Each class's share of it has that many degrees of freedom, less one; together Satterthwaite's. With several
    scans a patient these are summed by patient first (Obuchowski 1997). Arguments as in :func:`delong`.

    Returns:
        None where :func:`delong` gives none, a class has a single patient, or nothing varies.

    Source: Satterthwaite 1946, Biometrics Bull 2:110.
    """
    if (parts := _macro_parts(truth, first, second, multilabel=multilabel)) is None:
        return None
    value, of_scan, groups = parts
    half = _half_width(of_scan, groups, patients, confidence)
    return None if half is None else (value - half, value + half)


def auc_interval(truth: NDArray[np.bool_], score: NDArray[np.float64], patients: Sequence[str]) -> Interval | None:
    """95 % interval of one AUC: as :func:`macro_auc_interval` of two classes. Arguments are [scan]."""
    table, both = np.column_stack([~truth, truth]), np.column_stack([-score, score])
    return macro_auc_interval(table, both, patients, multilabel=False)


def macro_auc_interval(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], patients: Sequence[str], *, multilabel: bool
) -> Interval | None:
    """95 % interval of one model's macro AUC on the logit scale; else as :func:`auc_difference_interval`.

    None also at a macro AUC of 0 or 1.
    """
    without_skill = np.zeros_like(probabilities)
    if (parts := _macro_parts(truth, probabilities, without_skill, multilabel=multilabel)) is None:
        return None
    above_half, of_scan, groups = parts
    half, auc = _half_width(of_scan, groups, patients, 0.95), above_half + 0.5
    if half is None or not 0 < auc < 1:
        return None
    on_logit = half / (auc * (1 - auc))
    return float(expit(logit(auc) - on_logit)), float(expit(logit(auc) + on_logit))


def _half_width(
    of_scan: NDArray[np.float64], groups: NDArray[np.intp], patients: Sequence[str], confidence: float
) -> float | None:
    """Student's t times the standard error; None where a group has one patient, or nothing varies.

    Scans of one patient need not be independent, nor of one group (Obuchowski 1997, Biometrics 53:567).
    """
    _, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    members = [groups == group for group in np.unique(groups)]
    n_patients = np.array([len(np.unique(patient[member])) for member in members])
    if n_patients.min() < 2:
        return None
    distances = [np.where(member, of_scan - of_scan[member].mean(), 0) for member in members]
    sums = np.stack([np.bincount(patient, weights=distance) for distance in distances], axis=1)
    squares, n = (sums**2).sum(axis=0), len(sums)
    by_group = squares * n_patients / (n_patients - 1)
    variance = float(by_group.sum() + n / (n - 1) * ((sums.sum(axis=1) ** 2).sum() - squares.sum()))
    if variance < _NOTHING:
        return None
    freedom = max(1.0, by_group.sum() ** 2 / (by_group**2 / (n_patients - 1)).sum())
    return float(t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance)


def _macro_parts(
    truth: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64], *, multilabel: bool
) -> tuple[float, NDArray[np.float64], NDArray[np.intp]] | None:
    """The difference, each scan's part in its error, and the group within which scans are exchangeable."""
    defined = truth.any(axis=0) & (~truth).any(axis=0)
    groups = np.zeros(len(truth), dtype=np.intp) if multilabel else truth.argmax(axis=1)
    if not defined.any() or np.min(np.unique(groups, return_counts=True)[1]) < 2:
        return None
    columns = zip(truth.T[defined], first.T[defined], second.T[defined], strict=True)
    values, parts = zip(*(_difference(*column) for column in columns), strict=True)
    return float(np.mean(values)), np.mean(parts, axis=0), groups


def _difference(
    truth: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Of two AUCs, and each scan's part in its error."""
    first_placements, second_placements = placements(truth, first), placements(truth, second)
    value = float(first_placements[truth].mean() - second_placements[truth].mean())
    return value, (first_placements - second_placements - value) / np.where(truth, truth.sum(), (~truth).sum())


def placements(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each case the share of others below it, for each other scan the share of cases above it; ties half.

    The mean over the cases, and that over the others, is the AUC. Both arguments are [scan].
    """
    n_cases, n_others = truth.sum(), (~truth).sum()
    ranks, result = rankdata(score), np.empty(len(score))
    result[truth] = (ranks[truth] - rankdata(score[truth])) / n_others
    result[~truth] = 1 - (ranks[~truth] - rankdata(score[~truth])) / n_cases
    return result


def _variance_of_sum(parts: NDArray[np.float64]) -> float:
    return len(parts) * float(parts.var(ddof=1))
