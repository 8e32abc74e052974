"""Choice of the most informative unlabelled scans: diverse ones that a network is uncertain of.

Each scan is embedded as the gradient of the loss with respect to the last layer if the network's own call were the
label: the outer product of (probabilities - call) and the scan's features. A scan that the network is certain of lies
near the origin, and similar scans lie close together. Scans are then drawn like the centres of k-means++, by squared
distance to the nearest one chosen. The origin counts as chosen: scans that the network is certain of need no label,
however many there are.

Sources: BADGE, Ash et al. 2020, ICLR, arXiv:1906.03671 (gradient embedding); Arthur & Vassilvitskii 2007, SODA
(k-means++). Added here are the origin, an ensemble's calibrated probabilities, and features that are standardised over
the unlabelled scans and scaled to unit length, without which all would point in about the same direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UsageError

_TINY = 1e-9  # squared distance below which two scans count as equal, or a scan as certain


@dataclass(frozen=True)
class Chosen:
    """A scan to label: its position, and its distance from the nearest scan chosen before or the origin, in [0, 2]."""

    position: int
    distance: float


def entropy(probabilities: NDArray[np.float64], *, multilabel: bool = False) -> NDArray[np.float64]:
    """Normalised Shannon entropy of each scan's prediction [scan], from 0 (certain) to 1 (classes equally probable).

    For several findings per scan, the mean over findings of the entropy of present against absent.

    Args:
        probabilities: [scan, class]; with one class per scan, each row sums to 1.
        multilabel: whether a scan can have several findings.
    """
    if multilabel:
        either = np.stack([probabilities, 1 - probabilities], axis=-1)
        return (_entropy_terms(either).sum(axis=-1) / np.log(2)).mean(axis=1)
    return _entropy_terms(probabilities).sum(axis=1) / np.log(probabilities.shape[1])


def _entropy_terms(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return -probabilities * np.log(np.clip(probabilities, np.finfo(float).tiny, 1))


def distance_from_call(probabilities: NDArray[np.float64], *, multilabel: bool = False) -> NDArray[np.float64]:
    """Probabilities minus the call, [scan, class]; the call is the most probable class, or the findings from 0.5."""
    if multilabel:
        return probabilities - (probabilities >= 0.5)
    return probabilities - np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]


def choose_next(
    features: NDArray[np.floating],
    probabilities: NDArray[np.float64],
    patients: Sequence[str],
    n: int,
    seed: int = 0,
    *,
    multilabel: bool = False,
) -> list[Chosen]:
    """Choose up to ``n`` scans in order of priority, at most one per patient; deterministic for a given seed.

    There are fewer than ``n`` if there are fewer patients, or if all others equal chosen ones or are certain.

    Args:
        features: of the network, [scan, feature].
        probabilities: calibrated, [scan, class].
        patients: one entry per scan.
        n: number of scans to choose, at least 1.
        seed: of the random choice.
        multilabel: whether a scan can have several findings.

    Raises:
        UsageError: the inputs differ in length or are empty, or ``n`` is below 1.
    """
    if not len(features) == len(probabilities) == len(patients) or not len(features):
        raise UsageError(
            f"{len(features)} features, {len(probabilities)} probabilities, {len(patients)} patients",
            expected="one of each a scan, of at least one scan",
        )
    if n < 1:
        raise UsageError(f"{n} scans to choose", expected="at least 1")
    unsure = distance_from_call(probabilities, multilabel=multilabel)
    shape = _directions(np.asarray(features, dtype=np.float64))
    sizes = (unsure**2).sum(axis=1) * (shape**2).sum(axis=1)
    nearest, names, rng = sizes.copy(), np.asarray(patients, dtype=str), np.random.default_rng(seed)
    chosen: list[Chosen] = []
    while len(chosen) < n and nearest.max() > _TINY:
        drawn = int(rng.choice(len(nearest), p=nearest / nearest.sum()))
        chosen.append(Chosen(drawn, float(np.sqrt(nearest[drawn]))))
        to_drawn = sizes + sizes[drawn] - 2 * (unsure @ unsure[drawn]) * (shape @ shape[drawn])
        nearest = np.minimum(nearest, to_drawn)
        nearest[(names == names[drawn]) | (nearest < _TINY)] = 0
    return chosen


def _directions(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features standardised over scans, then scaled to unit length; a zero vector becomes the first unit vector."""
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    flat = lengths[:, 0] < np.sqrt(_TINY)
    scaled = scaled / np.where(flat[:, None], 1, lengths)
    scaled[flat, 0] = 1
    return scaled
