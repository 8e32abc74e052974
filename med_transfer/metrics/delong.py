"""The variance of an AUC and of the difference of two, without resampling: DeLong's, in the fast form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from med_transfer.metrics.binomial import Z95
from med_transfer.metrics.records.estimate import Interval


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
    defined = truth.any(axis=0) & (~truth).any(axis=0)
    groups = np.zeros(len(truth), dtype=np.intp) if multilabel else truth.argmax(axis=1)
    if not defined.any() or np.min(np.unique(groups, return_counts=True)[1]) < 2:
        return None
    values, parts = [], []
    for class_truth, first_score, second_score in zip(
        truth.T[defined], first.T[defined], second.T[defined], strict=True
    ):
        value, placements = _difference(class_truth, first_score, second_score)
        values.append(value)
        parts.append(placements)
    parts_of_scan = np.mean(parts, axis=0)
    variance = sum(_variance_of_sum(parts_of_scan[groups == group]) for group in np.unique(groups))
    return AucDifference(float(np.mean(values)), float(variance))


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


def auc_variance(truth: NDArray[np.bool_], score: NDArray[np.float64], patients: Sequence[str]) -> float | None:
    """Variance of one AUC over new patients; scans of one patient need not be independent.

    With one scan a patient this is DeLong's variance.

    Args:
        truth: boolean [scan].
        score: [scan].
        patients: one entry a scan.

    Returns:
        None where fewer than two patients have a case, or fewer than two another scan.

    Source: Obuchowski 1997, Biometrics 53:567; DeLong et al. 1988, Biometrics 44:837.
    """
    _, of_scan = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    n_cases, n_others = int(truth.sum()), int((~truth).sum())
    with_case, with_other = len(np.unique(of_scan[truth])), len(np.unique(of_scan[~truth]))
    if with_case < 2 or with_other < 2:
        return None
    placement, n_patients = placements(truth, score), int(of_scan.max()) + 1
    distance = placement - placement[truth].mean()
    of_cases = np.bincount(of_scan, weights=distance * truth, minlength=n_patients)
    of_others = np.bincount(of_scan, weights=distance * ~truth, minlength=n_patients)
    variance = with_case / (with_case - 1) * (of_cases**2).sum() / n_cases**2
    variance += with_other / (with_other - 1) * (of_others**2).sum() / n_others**2
    variance += 2 * n_patients / (n_patients - 1) * (of_cases * of_others).sum() / (n_cases * n_others)
    return float(variance)


def logit_interval(auc: float, variance: float) -> Interval | None:
    """95 % interval on the logit scale, so that it stays in (0, 1); None at 0, at 1, and without variance.

    Source: Qin & Hotilovac 2008, Stat Methods Med Res 17:207.
    """
    if not 0 < auc < 1 or variance <= 0:
        return None
    half = Z95 * math.sqrt(variance) / (auc * (1 - auc))
    return float(expit(logit(auc) - half)), float(expit(logit(auc) + half))
