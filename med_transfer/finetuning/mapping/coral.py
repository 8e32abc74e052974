"""CORAL on frozen features: labelled features get the mean and covariance of unlabelled ones. Closed form.

Which way round. The source's own labelled scans are of no use here: they answer another question, and a bundle does not
hold them. What has labels is the cohort; what may look different is where the network will work. So the features of the
cohort's labelled scans are recoloured to look like those of unlabelled scans of the other site, the head learns on
them, and reads that site's features as they come: the map is needed in training only, and the bundle stays a plain
network. It is a network for scans like the unlabelled ones, no longer for those of the site that gave the labels.

Source: Sun, Feng & Saenko 2016, AAAI, "Return of frustratingly easy domain adaptation", arXiv:1511.05547.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


@dataclass(frozen=True)
class LinearMap:
    """``features @ matrix + offset`` with matrix [feature, feature] and offset [feature]."""

    matrix: Table
    offset: Table

    def __call__(self, features: NDArray[np.floating]) -> Table:
        """[scan, feature] of features [scan, feature]."""
        return features @ self.matrix + self.offset


def fit_coral(labelled: NDArray[np.floating], unlabelled: NDArray[np.floating], ridge: float = 1.0) -> LinearMap:
    """The map that gives labelled features the mean and the covariance of unlabelled ones.

    ::

        (z - mean z_l) (C_l + ridge I)^(-1/2) (C_u + ridge I)^(1/2) + mean z_u

    with z the features in units of the labelled ones' standard deviations. The mean is the paper's too: it centres
    both sides. As all of CORAL it takes the share of the classes to be alike on both sides: where it differs,
    the difference between classes is taken for one between sites.

    Args:
        labelled, unlabelled: [scan, feature], at least two scans each.
        ridge: added to every variance, 1 in the paper; near 0 both moments match, where there are more scans than
            features.
    """
    first, second = (np.asarray(side, dtype=np.float64) for side in (labelled, unlabelled))
    scale = first.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    whiten = _power(np.cov(first / scale, rowvar=False), -0.5, ridge)
    colour = _power(np.cov(second / scale, rowvar=False), 0.5, ridge)
    matrix = (whiten @ colour) * scale / scale[:, None]
    return LinearMap(matrix, second.mean(axis=0) - first.mean(axis=0) @ matrix)


def _power(covariance: Table, exponent: float, ridge: float) -> Table:
    """Symmetric power of a covariance plus ``ridge`` on its diagonal."""
    variances, axes = np.linalg.eigh(np.atleast_2d(covariance))
    return (axes * (np.maximum(variances, 0) + ridge) ** exponent) @ axes.T
