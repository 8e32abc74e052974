"""TransRate: the mutual information of features and labels, by coding rates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.selection.measures.inputs import checked, project_to_span

_DISTORTION = 1e-4  # squared, for features of mean squared length 1; the authors' value


def trans_rate(features: ArrayLike, labels: ArrayLike) -> float:
    """R(Z) - sum over classes of n_c / n R(Z_c) with R(Z) = 1/2 log det(I + Z' Z / (n eps)); higher is better.

    Z are the features, centred and scaled to a mean squared length of 1, so that their units do not matter. Classes
    are weighted by size, as in the mutual information that the difference of rates approximates. 0 for constant
    features.

    Unreliable with fewer scans than features: every class then spans its own space whatever the features, and noise can
    score higher than informative features (a test shows it with 60 scans and 80 features).

    Raises:
        UsageError: see :func:`med_transfer.selection.measures.inputs.checked`.

    Source: Huang et al. 2022, ICML, arXiv:2106.09362.
    """
    table, classes = checked(features, labels)
    centred = table - table.mean(axis=0)
    length = np.sqrt((centred**2).sum(axis=1).mean())
    if length <= 1e-12 * np.abs(table).max(initial=0.0):
        return 0.0
    points = project_to_span(centred / length)
    shares = np.bincount(classes) / len(classes)
    within = sum(share * _rate(points[classes == number]) for number, share in enumerate(shares))
    return _rate(points) - float(within)


def _rate(points: NDArray[np.float64]) -> float:
    singular = np.linalg.svd(points, compute_uv=False)
    return 0.5 * float(np.log1p(singular**2 / (len(points) * _DISTORTION)).sum())
