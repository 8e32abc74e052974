"""Labelled scans divided into folds by patient: nobody is both learned from and predicted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.errors import UsageError
from med_transfer.predictions.labels import Labels

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]  # positions of the scans to learn from, and of those to predict


def patient_folds(kinds: ArrayLike, patients: Sequence[str], n_folds: int = 5, seed: int = 0) -> NDArray[np.intp]:
    """A fold number a scan, [scan]: whole patients, scans of each kind spread evenly.

    Where no kind has as many scans as there are folds, they are spread as chance has it.

    Args:
        kinds: boolean [scan, class], of which each pattern is a kind; or a number a scan, [scan].
        patients: one entry a scan.
        n_folds: at least 2; a fold may be empty where patients have many scans.
        seed: of the division.

    Raises:
        UsageError: fewer patients than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and a config of splits needs none of it

    if len(set(patients)) < n_folds:
        raise UsageError(f"{len(set(patients))} patients for {n_folds} folds", expected="at least one a fold")
    _, strata = np.unique(np.asarray(kinds), axis=0, return_inverse=True)
    strata = strata.ravel()
    if np.bincount(strata).max() < n_folds:
        strata = np.zeros_like(strata)
    folds = np.zeros(len(strata), dtype=np.intp)
    divider = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of a kind that is rare: who needs every class in every fold checks that
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, part) in enumerate(divider.split(folds, strata, list(patients))):
            folds[part] = number
    return folds


def held_out_in_turn(folds: NDArray[np.intp]) -> list[Fold]:
    """Of a fold number a scan, each fold that is not empty once as the scans to predict."""
    return [(np.flatnonzero(folds != number), np.flatnonzero(folds == number)) for number in np.unique(folds)]


def patient_counts(truth: NDArray[np.bool_], patients: Sequence[str], labels: Labels) -> dict[str, int]:
    """Patients that have each class; of findings also those that have a scan without it, as ``no NAME``.

    Args:
        truth: boolean [scan, class].
        patients: one entry a scan.
        labels: class names.
    """
    everyone = np.asarray(patients, dtype=str)
    columns = dict(zip(labels.names, truth.T, strict=True))
    if labels.multilabel:
        columns |= {f"no {name}": ~column for name, column in columns.items()}
    return {name: len(set(everyone[column])) for name, column in columns.items()}
