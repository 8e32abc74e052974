"""Frechet distance between two sets of features as Gaussians, with shrunk covariances if scans are few."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import orth

from med_transfer.backbones.weights.source_features import LowRankGaussian
from med_transfer.errors import UsageError
from med_transfer.selection.measures.inputs import finite_table, shrinkage


def gaussian_of(features: ArrayLike) -> LowRankGaussian:
    """Mean and covariance of features [scan, feature].

    The sample covariance (divided by the number of scans) if there are more scans than features. Otherwise it does not
    have full rank and is shrunk towards a multiple of the identity (Ledoit & Wolf 2004, J Multivar Anal 88:365).

    Raises:
        UsageError: fewer than two scans, or features that are not a finite table.
    """
    table = finite_table(features)
    count, width = table.shape
    if count < 2:
        raise UsageError(f"{count} scan", expected="at least two: one has no spread")
    mean = table.mean(axis=0)
    _, singular, components = np.linalg.svd(table - mean, full_matrices=False)
    variances = singular**2 / count
    if count > width:
        return LowRankGaussian(mean, components, variances, 0.0)
    share = shrinkage(table)
    shared = share * float(variances.sum()) / width
    nonzero = variances > 0
    return LowRankGaussian(mean, components[nonzero], (1 - share) * variances[nonzero] + shared, shared)


def frechet_distance(first: LowRankGaussian, second: LowRankGaussian) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2), at least 0, in squared units of the features.

    Computed in the span of both Gaussians' components; outside it both covariances are multiples of the identity.

    Raises:
        UsageError: different numbers of features.

    Source: Dowson & Landau 1982, J Multivar Anal 12:450; of network features Heusel et al. 2017, arXiv:1706.08500.
    """
    if first.mean.shape != second.mean.shape:
        raise UsageError(f"{len(first.mean)} and {len(second.mean)} features", expected="the same layer of one network")
    width = len(first.mean)
    basis = orth(np.concatenate([first.components, second.components]).T)  # [feature, direction]
    here, there = (_covariance(gaussian, basis) for gaussian in (first, second))
    root = _root(here)
    inside = (
        np.trace(here) + np.trace(there) - 2 * np.sqrt(np.clip(np.linalg.eigvalsh(root @ there @ root), 0, None)).sum()
    )
    outside = (width - basis.shape[1]) * (np.sqrt(first.residual) - np.sqrt(second.residual)) ** 2
    return max(0.0, float(((first.mean - second.mean) ** 2).sum() + inside + outside))


def _covariance(gaussian: LowRankGaussian, basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """The covariance in an orthonormal basis [feature, direction] that spans all components."""
    inside = gaussian.components @ basis
    own = inside.T @ (inside * (gaussian.variances - gaussian.residual)[:, None])
    return own + gaussian.residual * np.eye(basis.shape[1])


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
