"""CORAL on frozen features: labelled features get the mean and covariance of unlabelled ones, in closed form.

Direction of the map: the source's own labelled scans cannot be used, since they answer another question and a bundle
does not hold them. The labelled scans are the cohort's, and the shift is towards the site where the network will work.
So the labelled scans' features are recoloured to match those of unlabelled scans of that site, and the head is trained
on them. It then reads that site's features unchanged: the map is needed in training only, and the bundle holds a plain
network. That network is for scans like the unlabelled ones, no longer for those of the site that gave the labels.

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
        """Mapped features [scan, feature] of features [scan, feature]."""
        return features @ self.matrix + self.offset


def fit_coral(labelled: NDArray[np.floating], unlabelled: NDArray[np.floating], ridge: float = 1.0) -> LinearMap:
    """The map that gives labelled features the mean and the covariance of unlabelled ones.

    ::

        (z - mean z_l) (C_l + ridge I)^(-1/2) (C_u + ridge I)^(1/2) + mean z_u

    with z the features in units of the labelled ones' standard deviations. As in the paper, both sides are centred.
    Like all of CORAL, it assumes equal class shares on both sides: if they differ, part of the difference between
    classes is mistaken for one between sites.

    Args:
        labelled, unlabelled: [scan, feature], at least two scans each.
        ridge: added to every variance, 1 in the paper; near 0 both moments match exactly, provided that there are more
            scans than features.
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
