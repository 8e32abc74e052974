"""Nested subsets of training patients of increasing size, stratified by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import TooFewPatients


def geometric_sizes(smallest: int, largest: int, n_sizes: int) -> tuple[int, ...]:
    """Numbers of patients from ``smallest`` to ``largest`` in a geometric sequence, rounded.

    There are fewer than ``n_sizes`` if some round to the same number.

    Raises:
        TooFewPatients: ``largest`` is below ``smallest``.
    """
    if largest < smallest:
        raise TooFewPatients(
            f"{largest} patients to learn from in a fold",
            expected=f"at least the smallest subset, {smallest}",
            action="Use a smaller smallest subset, more folds, or label more patients",
        )
    return tuple(np.unique(np.round(np.geomspace(smallest, largest, n_sizes)).astype(int)).tolist())


def patient_strata(truth: NDArray[np.bool_], patients: Sequence[str]) -> dict[str, int]:
    """Each patient's stratum: the class of their scans that the fewest patients have, or the number of classes if none.

    Args:
        truth: boolean [scan, class].
        patients: one entry per scan.
    """
    names, numbers = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    present = np.zeros((len(names), truth.shape[1]), dtype=bool)
    np.logical_or.at(present, numbers, truth)
    rarity = np.where(present, present.sum(axis=0), len(names) + 1)
    rarest = np.where(present.any(axis=1), rarity.argmin(axis=1), truth.shape[1])
    return dict(zip(names.tolist(), rarest.tolist(), strict=True))


def nested_order(strata: dict[str, int], rng: np.random.Generator) -> list[str]:
    """All patients in a random order in which every prefix is stratified.

    The first patients are one of each stratum. The result does not depend on the order of ``strata``.
    """
    by_stratum: dict[int, list[str]] = {}
    for patient in sorted(strata):
        by_stratum.setdefault(strata[patient], []).append(patient)
    due, first = [], []
    for stratum in sorted(by_stratum):
        patients = [by_stratum[stratum][k] for k in rng.permutation(len(by_stratum[stratum]))]
        first.append(patients[0])
        shift = rng.random()  # otherwise the same stratum would come first in every round
        due += [((place + shift) / len(patients), patient) for place, patient in enumerate(patients) if place]
    return [*first, *(patient for _, patient in sorted(due))]
