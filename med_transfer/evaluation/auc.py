"""Area under the receiver operating characteristic curve, one class against the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def weighted_auc(
    truth: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AUC for each row of scan weights, [draw]; NaN where cases or others are missing from the draw.

    The probability that a case scores above another scan, ties counting half (Mann-Whitney). Scores are sorted
    once; all draws share the order.

    Args:
        truth: boolean [scan].
        score: [scan], higher for cases.
        weights: [draw, scan].

    Source: Hanley & McNeil 1982, Radiology 143:29.
    """
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    ties = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # where each distinct score begins
    weights, truth = weights[:, order], truth[order]
    cases = np.add.reduceat(weights * truth, ties, axis=1)
    others = np.add.reduceat(weights * ~truth, ties, axis=1)
    below = np.cumsum(others, axis=1) - others / 2
    with np.errstate(invalid="ignore"):
        return (cases * below).sum(axis=1) / (cases.sum(axis=1) * others.sum(axis=1))


def auc(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """AUC of one class; None when there is no case, or nothing but cases. Shapes as in ``weighted_auc``."""
    if truth.all() or not truth.any():
        return None
    return float(weighted_auc(truth, score, np.ones((1, len(truth))))[0])


def class_aucs(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AUC of every class against the rest: [draw, class], NaN where undefined.

    ``truth`` and ``probabilities`` are [scan, class].
    """
    columns = range(truth.shape[1])
    return np.stack([weighted_auc(truth[:, c], probabilities[:, c], weights) for c in columns], axis=1)


def weighted_macro_auc(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean AUC over the classes that have cases and others, [draw]; NaN where one of them was not drawn."""
    defined = truth.any(axis=0) & (~truth).any(axis=0)
    if not defined.any():
        return np.full(len(weights), np.nan)
    return class_aucs(truth[:, defined], probabilities[:, defined], weights).mean(axis=1)
