"""Which unlabelled scans teach most: those a network is unsure of, and no two alike.

Each scan is placed by the gradient that its label would send into the last layer if the network's own call were right,
the outer product of (probabilities - call) and the scan's features. A scan that the network is sure of lies near the
origin, two alike lie together. Scans are then drawn as k-means++ draws its centres, by squared distance to the nearest
one chosen. The origin counts as chosen: what the network is sure of needs no label, however many such scans there are.

Sources: BADGE, Ash et al. 2020, ICLR, arXiv:1906.03671 (gradient embedding); Arthur & Vassilvitskii 2007, SODA
(k-means++). Ours are the origin, calibrated probabilities of an ensemble, and features of unit length about the mean of
the unlabelled scans, without which all of them point the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import UsageError

_TINY = 1e-9  # squared distance at which two scans are the same to the network, and one it is sure of is no question


@dataclass(frozen=True)
class Chosen:
    """A scan to label: its position, and how far it lay from all chosen before it and from certainty, in [0, 2]."""

    position: int
    distance: float


def entropy(probabilities: NDArray[np.float64], *, multilabel: bool = False) -> NDArray[np.float64]:
    """How unsure a network is of each scan [scan], in [0, 1]: 0 certain, 1 every class alike.

    Shannon entropy over its greatest value; for several findings a scan the mean over the findings of that of present
    against absent.

    Args:
        probabilities: [scan, class], of one class a scan each row sums to 1.
        multilabel: several findings a scan.
    """
    if multilabel:
        either = np.stack([probabilities, 1 - probabilities], axis=-1)
        return (_surprise(either).sum(axis=-1) / np.log(2)).mean(axis=1)
    return _surprise(probabilities).sum(axis=1) / np.log(probabilities.shape[1])


def _surprise(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return -probabilities * np.log(np.clip(probabilities, np.finfo(float).tiny, 1))


def distance_from_call(probabilities: NDArray[np.float64], *, multilabel: bool = False) -> NDArray[np.float64]:
    """Probabilities minus the call they lead to [scan, class]: the most probable class, or findings at 0.5 and more."""
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
    """Up to ``n`` scans, the first to be labelled first; at most one a patient.

    The same call always gives the same answer. Fewer than ``n`` where there are fewer patients, or where what is left
    repeats what was chosen or is certain.

    Args:
        features: [scan, feature] of the network.
        probabilities: calibrated, [scan, class].
        patients: one entry a scan.
        n: how many to choose, above 0.
        seed: of the drawing.
        multilabel: several findings a scan.

    Raises:
        UsageError: not one of each a scan, or no scan asked for.
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
    """Features standardised over the scans, each scan's to length 1; a single scan points anywhere."""
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    flat = lengths[:, 0] < np.sqrt(_TINY)
    scaled = scaled / np.where(flat[:, None], 1, lengths)
    scaled[flat, 0] = 1
    return scaled
