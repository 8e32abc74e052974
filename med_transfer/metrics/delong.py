"""DeLong's variance of an AUC, and of the difference of two, in the fast rank-based form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata, t

from med_transfer.metrics.records.estimate import Interval

_NOTHING = 1e-20  # below this, a variance consists of rounding errors


@dataclass(frozen=True)
class AucDifference:
    """Difference of two (macro) AUCs, first minus second.

    Attributes:
        value: the difference.
        variance: its sampling variance, for the same number of scans of each class.
    """

    value: float
    variance: float

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value; None if the variance is 0 although the AUCs differ."""
        if self.variance > 0:
            return float(2 * norm.sf(abs(self.value) / math.sqrt(self.variance)))
        return 1.0 if self.value == 0 else None

    def p_above(self, bound: float) -> float | None:
        """Return the one-sided p-value of the null hypothesis difference <= ``least``; None if the variance is 0."""
        return float(norm.sf((self.value - bound) / math.sqrt(self.variance))) if self.variance > 0 else None


def delong(
    truth: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64], *, multilabel: bool
) -> AucDifference | None:
    """Return the difference of two models' macro AUC on the same scans, assuming one scan per patient.

    With two classes this is DeLong's test. With more, the macro AUC is the mean of AUCs that share scans: each scan's
    contributions are summed first, and their variance is computed within each true class. With several findings there
    is no true class to condition on, and the variance is computed over all scans.

    Args:
        truth: boolean [scan, class].
        first, second: probabilities [scan, class].
        multilabel: whether a scan may have several findings.

    Returns:
        None if no class has both cases and other scans, or a class has a single scan.

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
    """Return an interval of the difference of two macro AUCs, from DeLong's variance over patients and Student's t.

    The variance is estimated from as few placements as the rarest class has patients, so a normal quantile would be too
    small. Each class contributes its number of patients minus one as degrees of freedom, which are combined by
    Satterthwaite's formula. Contributions of a patient's scans are summed first (Obuchowski 1997). Arguments as in
    :func:`delong`, with the patient of each scan.

    Returns:
        None where :func:`delong` returns None, a class has a single patient, or nothing varies.

    Source: Satterthwaite 1946, Biometrics Bull 2:110.
    """
    if (parts := _macro_parts(truth, first, second, multilabel=multilabel)) is None:
        return None
    value, of_scan, groups = parts
    half = _half_width(of_scan, groups, patients, confidence)
    return None if half is None else (value - half, value + half)


def auc_interval(truth: NDArray[np.bool_], score: NDArray[np.float64], patients: Sequence[str]) -> Interval | None:
    """Return the 95 % interval of one AUC, as :func:`macro_auc_interval` for two classes. Arguments are [scan]."""
    table, both = np.column_stack([~truth, truth]), np.column_stack([-score, score])
    return macro_auc_interval(table, both, patients, multilabel=False)


def macro_auc_interval(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], patients: Sequence[str], *, multilabel: bool
) -> Interval | None:
    """Return the 95 % interval of one model's macro AUC, computed on the logit scale.

    Otherwise like :func:`auc_difference_interval`; also None at a macro AUC of 0 or 1.
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
    """Student's t times the standard error; None if a group has one patient, or nothing varies.

    Scans of one patient may be dependent and in different groups (Obuchowski 1997, Biometrics 53:567).
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
    """The difference, each scan's contribution to its error, and the group within which scans are exchangeable."""
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
    """Difference of two AUCs, and each scan's contribution to its error."""
    first_placements, second_placements = placements(truth, first), placements(truth, second)
    value = float(first_placements[truth].mean() - second_placements[truth].mean())
    return value, (first_placements - second_placements - value) / np.where(truth, truth.sum(), (~truth).sum())


def placements(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each case, the share of other scans below it, and for each other scan, the share of cases above it.

    Ties count half. The mean over the cases equals that over the others, and is the AUC. Arguments are [scan].
    """
    n_cases, n_others = truth.sum(), (~truth).sum()
    ranks, result = rankdata(score), np.empty(len(score))
    result[truth] = (ranks[truth] - rankdata(score[truth])) / n_others
    result[~truth] = 1 - (ranks[~truth] - rankdata(score[~truth])) / n_cases
    return result


def _variance_of_sum(parts: NDArray[np.float64]) -> float:
    return len(parts) * float(parts.var(ddof=1))
