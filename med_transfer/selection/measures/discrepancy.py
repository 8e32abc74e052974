"""Differences between two sets of features: maximum mean discrepancy, and the proxy A-distance by a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist, pdist

from med_transfer.errors import UsageError
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import patient_folds
from med_transfer.selection.measures.inputs import finite_table
from med_transfer.selection.probes import linear_probe

_SIDES = Labels(("source", "target"))


@dataclass(frozen=True)
class Discrepancy:
    """Maximum mean discrepancy.

    Attributes:
        squared: the unbiased estimate; if nothing differs it scatters around 0, so it can be negative.
        p_value: share of random divisions of all scans with at least as large an estimate, in (0, 1].
        bandwidth: of the kernel, in units of the features.
    """

    squared: float
    p_value: float
    bandwidth: float


def mmd(source: ArrayLike, target: ArrayLike, n_permutations: int = 500, seed: int = 0) -> Discrepancy:
    """Unbiased squared MMD with k(x, y) = exp(-|x - y|^2 / (2 h^2)), h the median distance between all scans.

    ::

        sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1)) - 2 mean k(x_i, y_j)

    The p-value counts the observed division among the permutations, so it is never 0 (Phipson & Smyth 2010). It assumes
    independent scans: several scans per patient make it too small.

    Args:
        source, target: [scan, feature].
        n_permutations: number of random divisions; with 0 the p-value is 1.
        seed: of the divisions.

    Raises:
        UsageError: fewer than two scans on a side, different numbers of features, or features that are not a finite
            table.

    Source: Gretton et al. 2012, JMLR 13:723; median heuristic, Garreau et al. 2017, arXiv:1707.07269.
    """
    first, second = _checked_pair(source, target)
    points = np.concatenate([first, second])
    distances = cdist(points, points)
    bandwidth = float(np.median(pdist(points))) or float(distances.max()) or 1.0
    kernel = np.exp(-(distances**2) / (2 * bandwidth**2))
    np.fill_diagonal(kernel, 0.0)
    observed = np.arange(len(points)) < len(first)
    rng = np.random.default_rng(seed)
    divisions = np.stack([observed, *(rng.permutation(observed) for _ in range(n_permutations))])
    values = _unbiased(kernel, divisions.astype(np.float64))
    as_large = values[1:] >= values[0] - 1e-12
    return Discrepancy(float(values[0]), float((1 + as_large.sum()) / (1 + n_permutations)), bandwidth)


def _unbiased(kernel: NDArray[np.float64], divisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared MMD of each division [division, scan] (1 first side, 0 second), for a kernel with a zero diagonal."""
    second_side = 1 - divisions
    n_first, n_second = divisions[0].sum(), second_side[0].sum()
    to_first, to_second = divisions @ kernel, second_side @ kernel
    within_first = (to_first * divisions).sum(axis=1) / (n_first * (n_first - 1))
    within_second = (to_second * second_side).sum(axis=1) / (n_second * (n_second - 1))
    return within_first + within_second - 2 * (to_first * second_side).sum(axis=1) / (n_first * n_second)


def proxy_a_distance(
    source: ArrayLike, target: ArrayLike, target_patients: Sequence[str] | None = None, n_folds: int = 5, seed: int = 0
) -> float:
    """2 (1 - 2 e) with e the error of classifying source against target; 0 if alike, 2 if separable without error.

    e is the balanced error, which does not depend on the sizes of the two sides, of a class-balanced linear classifier,
    cross-validated by patient. Values of e above one half count as one half.

    Args:
        source, target: [scan, feature].
        target_patients: one entry per target scan; None: each scan counts as a patient, as source scans always do.
        n_folds: of the cross-validation; fewer if a side has fewer patients.
        seed: of the folds.

    Raises:
        UsageError: see :func:`mmd`.

    Source: Ben-David et al. 2006, NeurIPS 19; Ganin et al. 2016, JMLR 17:59.
    """
    first, second = _checked_pair(source, target)
    patients = [f"target {name}" for name in (target_patients or range(len(second)))]
    patients = [*(f"source {number}" for number in range(len(first))), *patients]
    truth = np.eye(2, dtype=bool)[np.r_[np.zeros(len(first), int), np.ones(len(second), int)]]
    folds = patient_folds(truth, patients, min(n_folds, len(first), len(set(patients)) - len(first)), seed)
    sensitivity = linear_probe(np.concatenate([first, second]), truth, patients, folds, _SIDES).balanced_sensitivity
    return max(0.0, 2 * (2 * sensitivity - 1))


def _checked_pair(source: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = finite_table(source), finite_table(target)
    if first.shape[1] != second.shape[1]:
        raise UsageError(f"{first.shape[1]} and {second.shape[1]} features", expected="the same layer of one network")
    if min(len(first), len(second)) < 2:
        raise UsageError(f"{len(first)} source and {len(second)} target scans", expected="at least two on each side")
    return first, second
