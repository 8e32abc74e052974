"""Prior shift: convert probabilities of balanced training, with equally frequent classes, to given class shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, softmax

_MIN_SHARE = 1e-6  # so that a logarithm stays finite


def log_prior_ratio(shares: ArrayLike, *, multilabel: bool, trained_at: ArrayLike = 0.5) -> NDArray[np.float64]:
    """Return the offset [class] to add to logits that were learned with equally frequent classes.

    Args:
        shares: [class], share of scans with each class in the target population, in [0, 1].
        multilabel: whether a scan may have several findings.
        trained_at: share of each finding in training; used only if ``multilabel``.

    Source: Saerens, Latinne & Decaestecker 2002, Neural Comput 14:21, equation 2.4; Elkan 2001, IJCAI, theorem 2.
    """
    own = np.clip(np.asarray(shares, dtype=np.float64), _MIN_SHARE, 1 - _MIN_SHARE)
    return logit(own) - logit(trained_at) if multilabel else np.log(own * own.size)


def shifted(
    probabilities: NDArray[np.floating], log_ratio: NDArray[np.float64], *, multilabel: bool
) -> NDArray[np.float64]:
    """Return probabilities [scan, class] with each class's odds multiplied by ``exp(log_ratio)``, [class]."""
    if not log_ratio.any():
        return probabilities.astype(np.float64)
    within = np.clip(probabilities, 1e-300, 1.0)
    return expit(logit(within) + log_ratio) if multilabel else softmax(np.log(within) + log_ratio, axis=1)
