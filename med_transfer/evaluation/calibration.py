"""Do probabilities mean what they say: Brier score, expected calibration error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.evaluation.estimate import Estimate, Record

N_BINS = 10


class ReliabilityBin(Record):
    """Scans of similar probability: what was claimed, what came true, in how many."""

    mean_probability: float
    observed: float
    n: int


class Calibration(Record):
    """Attributes:
    brier: see ``brier_by_scan``; 0 is perfect.
    ece: see ``expected_calibration_error``.
    bins: the reliability diagram; empty bins are left out.
    mean_probability: per class, to be held against ``prevalence`` (calibration in the large).
    """

    brier: Estimate
    ece: Estimate
    bins: list[ReliabilityBin]
    mean_probability: dict[str, float]


def brier_by_scan(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], *, multilabel: bool
) -> NDArray[np.float64]:
    """Brier score of each scan, [scan], in [0, 1]; its mean over scans is the Brier score.

    One class a scan: half the sum over classes of (probability - truth)^2, which for two classes is the usual
    binary score. Several findings a scan: the mean over findings.

    Source: Brier 1950, Mon Weather Rev 78:1.
    """
    squared = (probabilities - truth) ** 2
    return squared.mean(axis=1) if multilabel else squared.sum(axis=1) / 2


def claims(
    truth: NDArray[np.bool_], probabilities: NDArray[np.float64], *, multilabel: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What is claimed with what probability, and whether it is so: two flat arrays.

    One class a scan: the most probable class of each scan. Several findings: every (scan, finding) pair.
    """
    if multilabel:
        return probabilities.ravel(), truth.ravel()
    top = probabilities.argmax(axis=1)[:, None]
    return np.take_along_axis(probabilities, top, axis=1)[:, 0], np.take_along_axis(truth, top, axis=1)[:, 0]


def reliability(
    claimed: NDArray[np.float64], came_true: NDArray[np.bool_], n_bins: int = N_BINS
) -> list[ReliabilityBin]:
    """Claims grouped in bins of equal width over [0, 1]; empty bins are left out."""
    bin_of_claim = np.clip(np.ceil(claimed * n_bins).astype(int) - 1, 0, n_bins - 1)
    return [
        ReliabilityBin(
            mean_probability=float(claimed[chosen].mean()),
            observed=float(came_true[chosen].mean()),
            n=int(chosen.sum()),
        )
        for chosen in (bin_of_claim == b for b in range(n_bins))
        if chosen.any()
    ]


def expected_calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean distance between claimed and observed, weighted by the scans in each bin; 0 is perfect.

    Few scans make it too large even for perfect probabilities. Source: Guo et al. 2017, ICML, PMLR 70:1321.
    """
    total = sum(b.n for b in bins)
    return sum(b.n * abs(b.mean_probability - b.observed) for b in bins) / total
