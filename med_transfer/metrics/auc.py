"""Area under the ROC curve, one class against the rest: full, partial, macro and micro; and average precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PARTIAL_FROM = 0.8  # lowest specificity of the partial AUC


def weighted_auc(
    truth: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the AUC for each row of scan weights, [draw]; NaN where a draw lacks positives or negatives.

    The AUC is the probability that a case scores above another scan, with ties counted half (Mann-Whitney). Scores are
    sorted once for all draws.

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
    positives = np.add.reduceat(weights * truth, ties, axis=1)
    negatives = np.add.reduceat(weights * ~truth, ties, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    with np.errstate(invalid="ignore"):
        return (positives * below).sum(axis=1) / (positives.sum(axis=1) * negatives.sum(axis=1))


def auc(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """Return the AUC of one class; None if there are no cases or only cases. Shapes as in ``weighted_auc``."""
    if truth.all() or not truth.any():
        return None
    return float(weighted_auc(truth, score, np.ones((1, len(truth))))[0])


def class_aucs(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the AUC of every class against the rest, [draw, class]; NaN where undefined.

    ``truth`` and ``probabilities`` are [scan, class].
    """
    columns = range(truth.shape[1])
    return np.stack([weighted_auc(truth[:, c], probabilities[:, c], weights) for c in columns], axis=1)


def weighted_macro_auc(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean AUC over classes with positives and negatives, [draw]; NaN if a draw lacks one of them."""
    defined = truth.any(axis=0) & (~truth).any(axis=0)
    if not defined.any():
        return np.full(len(weights), np.nan)
    return class_aucs(truth[:, defined], probabilities[:, defined], weights).mean(axis=1)


def weighted_micro_auc(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the AUC of all (scan, class) pairs pooled, [draw]."""
    return weighted_auc(truth.ravel(), probabilities.ravel(), np.repeat(weights, truth.shape[1], axis=1))


def weighted_partial_auc(
    truth: NDArray[np.bool_],
    score: NDArray[np.float64],
    weights: NDArray[np.float64],
    specificity_from: float = PARTIAL_FROM,
) -> NDArray[np.float64]:
    """Return the standardised partial AUC at a specificity of at least ``specificity_from``, [draw].

    It is 0.5 without skill and 1 at best; below 0.5 the curve lies under the diagonal in this range. Shapes as in
    ``weighted_auc``; NaN where positives or negatives are missing.

    Source: McClish 1989, Med Decis Making 9:190.
    """
    largest = 1 - specificity_from
    false_positive, true_positive = roc_points(truth, score, weights)
    x0, x1 = (np.minimum(x, largest) for x in (false_positive[:, :-1], false_positive[:, 1:]))
    run, rise = np.diff(false_positive, axis=1), np.diff(true_positive, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        y1 = true_positive[:, :-1] + np.where(run > 0, rise * (x1 - x0) / run, 0)
    area = ((x1 - x0) * (true_positive[:, :-1] + y1) / 2).sum(axis=1)
    return standardised(area, largest)


def standardised(area: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Standardise a partial area up to the false positive rate ``largest`` by McClish's formula."""
    least = largest**2 / 2
    return (1 + (area - least) / (largest - least)) / 2


def roc_points(
    truth: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates, each [draw, point], from (0, 0) through each distinct score, descending."""
    positives, negatives = _above_each_score(truth, score, weights)
    with np.errstate(invalid="ignore"):
        return negatives / negatives[:, -1:], positives / positives[:, -1:]


def weighted_average_precision(
    truth: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the average precision, [draw]: the mean over cases of the PPV at the case's score; NaN without cases.

    The curve is not interpolated, which would be optimistic. A model without skill scores the prevalence. Shapes as in
    ``weighted_auc``.

    Source: Davis & Goadrich 2006, ICML, doi:10.1145/1143844.1143874; same definition as scikit-learn.
    """
    positives, negatives = _above_each_score(truth, score, weights)
    predicted = positives + negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(predicted > 0, positives / predicted, 0)[:, 1:]
        return (np.diff(positives, axis=1) * precision).sum(axis=1) / positives[:, -1]


def _above_each_score(
    truth: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cumulative positives and negatives, each [draw, point], at or above each distinct score, descending, from 0."""
    order = np.argsort(-score, kind="stable")
    ordered, truth, weights = score[order], truth[order], weights[:, order]
    last = np.r_[np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1]  # where each distinct score ends
    positives, negatives = (np.cumsum(weights * kind, axis=1)[:, last] for kind in (truth, ~truth))
    return np.pad(positives, ((0, 0), (1, 0))), np.pad(negatives, ((0, 0), (1, 0)))
