"""H-score: between-class variance of whitened features; plain, and with a shrunk covariance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.errors import UsageError
from med_transfer.selection.measures.inputs import checked, shrinkage

_RELATIVE_ZERO = 1e-12  # variance along an axis, as a share of the largest, that counts as 0


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """tr(cov(f)^-1 cov(E[f | y])), from 0 to classes - 1; higher is better. 0 for constant features.

    Raises:
        UsageError: there are at most features + 1 scans: any labels are then linearly separable, and the score is
            classes - 1 whatever the features are. Also as :func:`med_transfer.selection.measures.inputs.checked`.

    Source: Bao et al. 2019, ICIP, doi:10.1109/ICIP.2019.8803726.
    """
    table, classes = checked(features, labels)
    if len(table) <= table.shape[1] + 1:
        raise UsageError(
            f"{len(table)} scans and {table.shape[1]} features: the plain H-score means nothing",
            expected="more scans than features",
            action="Use regularised_h_score",
        )
    return _between(table, classes, shrunk=0.0)


def regularised_h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """(1 - a) tr(S_a^-1 cov(E[f | y])) with S_a = (1 - a) cov(f) + a tr(cov(f)) / d I and Ledoit and Wolf's a.

    Defined for any number of features; 0 for constant features.

    Raises:
        UsageError: see :func:`med_transfer.selection.measures.inputs.checked`.

    Source: Ibrahim et al. 2022, ECML PKDD, arXiv:2110.06893; shrinkage: Ledoit & Wolf 2004, J Multivar Anal 88:365.
    """
    table, classes = checked(features, labels)
    if not np.ptp(table, axis=0).any():
        return 0.0
    return _between(table, classes, shrunk=shrinkage(table))


def _between(table: NDArray[np.float64], classes: NDArray[np.intp], shrunk: float) -> float:
    """The trace, as a sum along the principal axes of the covariance; outside their span all class means agree."""
    centred = table - table.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(table)
    nonzero = variances > _RELATIVE_ZERO * variances.max(initial=0.0)
    if not nonzero.any():
        return 0.0
    points, variances = (left * singular)[:, nonzero], variances[nonzero]
    weights = np.bincount(classes) / len(classes)
    means = np.stack([points[classes == number].mean(axis=0) for number in range(len(weights))])
    regularised = (1 - shrunk) * variances + shrunk * variances.sum() / table.shape[1]
    return float((1 - shrunk) * (weights @ (means**2 / regularised)).sum())
