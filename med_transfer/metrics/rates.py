"""Rates, F1 and likelihood ratios at the operating point, from counts or from many resampled counts at once."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics.records.class_metrics import Counts

Mask = NDArray[np.bool_]
Weights = NDArray[np.float64]
Cells = dict[str, NDArray[np.float64]]  # cells of 2 x 2 tables by the names of Counts, all of one shape

# Every rate is hits / (hits + misses): the names of the two cells of the 2 x 2 table.
# Altman & Bland 1994, BMJ 308:1552 and 309:102; predictive values hold only at the prevalence of the scans.
RATES = {
    "sensitivity": ("true_positive", "false_negative"),
    "specificity": ("true_negative", "false_positive"),
    "ppv": ("true_positive", "false_positive"),
    "npv": ("true_negative", "false_negative"),
}
CELLS = ("true_positive", "false_positive", "true_negative", "false_negative")


def share(hits: int, misses: int) -> float | None:
    """Return hits / (hits + misses); None if both are 0, as it is then undefined."""
    total = hits + misses
    return hits / total if total else None


def f1(true_positive: int, false_positive: int, false_negative: int) -> float | None:
    """Return the harmonic mean of PPV and sensitivity, 2 TP / (2 TP + FP + FN); None without any case or call.

    Source: van Rijsbergen 1979, Information Retrieval, chapter 7.
    """
    return share(2 * true_positive, false_positive + false_negative)


def _cells(truth: Mask, predicted: Mask) -> dict[str, Mask]:
    return {
        "true_positive": truth & predicted,
        "false_positive": ~truth & predicted,
        "true_negative": ~truth & ~predicted,
        "false_negative": truth & ~predicted,
    }


def count(truth: Mask, predicted: Mask) -> Counts:
    """Return the 2 x 2 table of one class; both arguments are boolean [scan]."""
    return Counts(**{name: int(cell.sum()) for name, cell in _cells(truth, predicted).items()})


def rate_of(name: str, counts: Counts) -> tuple[int, int]:
    """Return hits and misses of a rate named in ``RATES``."""
    table = asdict(counts)
    hits, misses = RATES[name]
    return table[hits], table[misses]


def weighted_cells(truth: Mask, predicted: Mask, weights: Weights) -> Cells:
    """Return the 2 x 2 table of every class for each row of scan weights; each cell is [draw, class].

    Args:
        truth, predicted: boolean [scan, class].
        weights: [draw, scan], how often each scan counts (bootstrap multiplicities, or ones).
    """
    return {name: weights @ cell.astype(np.float64) for name, cell in _cells(truth, predicted).items()}


def rate_in(name: str, cells: Cells) -> NDArray[np.float64]:
    """Return a rate named in ``RATES``, in the shape of the cells; NaN where undefined."""
    hits, misses = (cells[cell] for cell in RATES[name])
    return _ratio(hits, hits + misses)


def f1_in(cells: Cells) -> NDArray[np.float64]:
    """Return F1 in the shape of the cells; NaN where undefined."""
    twice = 2 * cells["true_positive"]
    return _ratio(twice, twice + cells["false_positive"] + cells["false_negative"])


def likelihood_ratio_in(which: str, cells: Cells) -> NDArray[np.float64]:
    """Return the ``positive`` or ``negative`` likelihood ratio in the shape of the cells.

    NaN where undefined, infinite where the denominator is 0.
    """
    sensitivity, specificity = rate_in("sensitivity", cells), rate_in("specificity", cells)
    if which == "positive":
        return _ratio(sensitivity, 1 - specificity)
    return _ratio(1 - sensitivity, specificity)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / below


def weighted_rates(truth: Mask, predicted: Mask, weights: Weights) -> dict[str, NDArray[np.float64]]:
    """Return all four rates for each row of scan weights, by name: [draw, class], NaN where undefined.

    Arguments as in :func:`weighted_cells`.
    """
    cells = weighted_cells(truth, predicted, weights)
    return {name: rate_in(name, cells) for name in RATES}


def weighted_balanced_accuracy(
    truth: Mask, predicted: Mask, weights: Weights, *, multilabel: bool
) -> NDArray[np.float64]:
    """Return balanced accuracy for each row of scan weights, [draw]; NaN where a draw lacks a class that has scans.

    With exclusive classes it is the mean sensitivity. With several findings it is the mean over findings of
    (sensitivity + specificity) / 2, since a network that reports every finding has a sensitivity of 1 for each.
    Classes without a case, and findings that every scan has, are left out of the mean.

    Source: Brodersen et al. 2010, ICPR, doi:10.1109/ICPR.2010.764.
    """
    defined = truth.any(axis=0) & (~truth).any(axis=0) if multilabel else truth.any(axis=0)
    if not defined.any():
        return np.full(len(weights), np.nan)
    rates = weighted_rates(truth[:, defined], predicted[:, defined], weights)
    by_class = (rates["sensitivity"] + rates["specificity"]) / 2 if multilabel else rates["sensitivity"]
    return by_class.mean(axis=1)
