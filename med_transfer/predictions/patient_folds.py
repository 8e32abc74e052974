"""Split labelled scans into folds by patient, so that no patient is in both training and test scans."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.errors import UsageError
from med_transfer.predictions.labels import Labels

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]  # indices of the scans to train on, and of those to predict


def patient_folds(kinds: ArrayLike, patients: Sequence[str], n_folds: int = 5, seed: int = 0) -> NDArray[np.intp]:
    """Assign whole patients to folds, stratified by kind of scan.

    If no kind has at least as many scans as there are folds, kinds are ignored.

    Args:
        kinds: boolean [scan, class], each distinct row of which is a kind; or a number for each scan, [scan].
        patients: one entry per scan.
        n_folds: at least 2; a fold may be empty if patients have many scans.
        seed: for the shuffling.

    Returns:
        Fold number of each scan, from 0, shape [scan].

    Raises:
        UsageError: fewer patients than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and not needed by configs

    if len(set(patients)) < n_folds:
        raise UsageError(f"{len(set(patients))} patients for {n_folds} folds", expected="at least one a fold")
    _, strata = np.unique(np.asarray(kinds), axis=0, return_inverse=True)
    strata = strata.ravel()
    if np.bincount(strata).max() < n_folds:
        strata = np.zeros_like(strata)
    folds = np.zeros(len(strata), dtype=np.intp)
    divider = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # callers that need every class in every fold check it
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, part) in enumerate(divider.split(folds, strata, list(patients))):
            folds[part] = number
    return folds


def held_out_in_turn(folds: NDArray[np.intp]) -> list[Fold]:
    """From fold numbers [scan], training and test indices with each non-empty fold held out once."""
    return [(np.flatnonzero(folds != number), np.flatnonzero(folds == number)) for number in np.unique(folds)]


def patient_counts(truth: NDArray[np.bool_], patients: Sequence[str], labels: Labels) -> dict[str, int]:
    """Number of patients with each class; if multi-label, also of those with a scan without it, as ``no NAME``.

    Args:
        truth: boolean [scan, class].
        patients: one entry per scan.
        labels: class names.
    """
    everyone = np.asarray(patients, dtype=str)
    columns = dict(zip(labels.names, truth.T, strict=True))
    if labels.multilabel:
        columns |= {f"no {name}": ~column for name, column in columns.items()}
    return {name: len(set(everyone[column])) for name, column in columns.items()}
