"""LogME: the maximum evidence of the labels under a Bayesian linear model on the features."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from med_transfer.selection.measures.inputs import checked

_MIN_NOISE = (
    1e-6  # lower limit of the noise variance; without it, the score of linearly separable features would be infinite
)
_RATIOS = np.logspace(-8, 8, 65)  # of prior to noise precision, in units of the features' mean square


def log_me(features: ArrayLike, labels: ArrayLike) -> float:
    """Logarithm of the maximum evidence per scan, averaged over classes; higher is better, at most about 6.

    For the column y of a class (1 for scans of the class, else 0), weights w ~ N(0, 1/alpha) and noise of variance
    1/beta::

        log p(y | F) = log N(y; 0, I / beta + F F' / alpha),   maximised over alpha and beta, divided by the scans

    The best beta is computed in closed form for each ratio alpha / beta, and the ratio is searched. This gives the
    maximum that the authors' fixed-point iteration aims at, even if there are more features than scans. The measure has
    no free parameter, is invariant to rotating the features and to scaling them all, and is comparable between feature
    tables of any width. Features that are all 0 give the evidence of pure noise.

    Args:
        features: [scan, feature]; not centred, as in the paper.
        labels: one class per scan.

    Raises:
        UsageError: see :func:`med_transfer.selection.measures.inputs.checked`.

    Source: You et al. 2021, ICML, arXiv:2102.11005.
    """
    table, classes = checked(features, labels)
    left, singular, _ = np.linalg.svd(table, full_matrices=False)
    one_hot = np.eye(classes.max() + 1)[classes]
    evidences = [_evidence(left.T @ column, singular**2, float(column @ column), len(table)) for column in one_hot.T]
    return float(np.mean(evidences)) / len(table)


def _evidence(projected: NDArray[np.float64], squares: NDArray[np.float64], length: float, count: int) -> float:
    """Log evidence of one class.

    Args:
        projected: its column in the axes of the features' left singular vectors.
        squares: squared singular values of the features.
        length: squared length of the column.
        count: number of scans.
    """
    inside = projected**2
    outside = max(length - float(inside.sum()), 0.0)
    scale = float(squares.mean()) or 1.0

    def at(log_ratio: float) -> float:
        """Log evidence at this ratio, with the best noise."""
        spread = 1 + squares / (scale * np.exp(log_ratio))
        misfit = float((inside / spread).sum()) + outside
        noise = max(misfit / count, _MIN_NOISE)
        return -0.5 * (count * np.log(2 * np.pi * noise) + misfit / noise + float(np.log(spread).sum()))

    grid = np.log(_RATIOS)
    best = int(np.argmax([at(ratio) for ratio in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    optimum = minimize_scalar(lambda ratio: -at(ratio), bounds=around, method="bounded", options={"xatol": 1e-9})
    return max(at(float(grid[best])), -float(optimum.fun))
