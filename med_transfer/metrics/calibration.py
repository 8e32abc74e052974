"""Do probabilities mean what they say: Brier score and its parts, expected calibration error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics.calibration_metrics import BrierDecomposition, ReliabilityBin

N_BINS = 10


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


def brier_decomposition(claimed: NDArray[np.float64], came_true: NDArray[np.bool_]) -> BrierDecomposition:
    """Parts of the Brier score of one class or finding, over the bins of ``reliability``; both arrays are [scan].

    Sources: Murphy 1973, J Appl Meteorol 12:595; what bins leave over, Stephenson, Coelho & Jolliffe 2008, Weather
    Forecast 23:752.
    """
    bins = reliability(claimed, came_true)
    share = np.array([b.n for b in bins]) / len(claimed)
    mean, observed = np.array([b.mean_probability for b in bins]), np.array([b.observed for b in bins])
    prevalence = float(came_true.mean())
    of_bins = float(share @ (mean - observed) ** 2)
    resolution, uncertainty = float(share @ (observed - prevalence) ** 2), prevalence * (1 - prevalence)
    score = float(((claimed - came_true) ** 2).mean())
    return BrierDecomposition(
        reliability=of_bins,
        resolution=resolution,
        uncertainty=uncertainty,
        within_bins=score - (of_bins - resolution + uncertainty),
    )


def combined(parts: list[BrierDecomposition], *, multilabel: bool) -> BrierDecomposition:
    """Of all classes together: half the sum over exclusive classes, the mean over findings, as ``brier_by_scan``."""
    divisor = len(parts) if multilabel else 2
    names = BrierDecomposition.model_fields
    return BrierDecomposition(**{name: sum(getattr(part, name) for part in parts) / divisor for name in names})


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


def bin_of(claimed: NDArray[np.float64], n_bins: int = N_BINS) -> NDArray[np.intp]:
    """Which of the bins of equal width over [0, 1] each claim lies in; a claim on a border in the lower one."""
    return np.clip(np.ceil(claimed * n_bins).astype(int) - 1, 0, n_bins - 1)


def reliability(
    claimed: NDArray[np.float64], came_true: NDArray[np.bool_], n_bins: int = N_BINS
) -> list[ReliabilityBin]:
    """Claims grouped in bins of equal width over [0, 1]; empty bins are left out."""
    bin_of_claim = bin_of(claimed, n_bins)
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


def bin_excess(claimed: NDArray[np.float64], came_true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Each claim's probability minus truth in the column of its bin, [claim, bin], 0 elsewhere.

    The sum of the absolute values of its mean over claims is ``expected_calibration_error``.
    """
    return (claimed - came_true)[:, None] * np.eye(N_BINS)[bin_of(claimed)]
