"""Labelled scans divided into folds by patient: nobody is both learned from and predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.errors import UsageError
from med_transfer.predictions.labels import Labels

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]  # positions of the scans to learn from, and of those to predict


def patient_folds(kinds: ArrayLike, patients: Sequence[str], n_folds: int = 5, seed: int = 0) -> NDArray[np.intp]:
    """A fold number a scan, [scan]: whole patients, scans of each kind spread evenly.

    Patients come in the order that chance has, those whose scans are unevenly of several kinds first; each goes to the
    fold where all folds' shares of each kind then differ least. Where no kind has as many scans as there are folds,
    kinds do not count. The folds are those of scikit-learn's StratifiedGroupKFold, which takes six times as long.

    Args:
        kinds: boolean [scan, class], of which each pattern is a kind; or a number a scan, [scan].
        patients: one entry a scan.
        n_folds: at least 2; a fold may be empty where patients have many scans.
        seed: of the division.

    Raises:
        UsageError: fewer patients than folds.
    """
    if len(set(patients)) < n_folds:
        raise UsageError(f"{len(set(patients))} patients for {n_folds} folds", expected="at least one a fold")
    scans, patient_of_scan = _counted(kinds, patients, n_folds)
    order = np.random.RandomState(seed).permutation(len(scans))  # the folds of every run so far
    order = order[np.argsort(-scans[order].std(axis=1), kind="stable")]
    total, fold_of = scans.sum(axis=0), np.zeros(len(scans), dtype=np.intp)
    held = np.zeros((n_folds, len(total)))
    for patient in order:
        fold_of[patient] = fold = _evenest(held, scans[patient], total)
        held[fold] += scans[patient]
    return fold_of[patient_of_scan]


def _counted(kinds: ArrayLike, patients: Sequence[str], n_folds: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Scans of each patient and kind, [patient, kind]; and of each scan its patient's row."""
    names, patient_of_scan = np.unique(list(patients), return_inverse=True)
    patterns, pattern_of_scan = np.unique(np.asarray(kinds), axis=0, return_inverse=True)
    scans = np.zeros((len(names), len(patterns)))
    np.add.at(scans, (patient_of_scan, pattern_of_scan.ravel()), 1)
    return scans if scans.sum(axis=0).max() >= n_folds else scans.sum(axis=1, keepdims=True), patient_of_scan


def _evenest(held: NDArray[np.float64], own: NDArray[np.float64], total: NDArray[np.float64]) -> int:
    """The fold that a patient's scans make least uneven; of those that are as good as equal one with fewer scans.

    Args:
        held: scans in each fold so far, [fold, kind].
        own: the patient's, [kind].
        total: everybody's, [kind].
    """
    with_own = held + np.eye(len(held))[:, :, None] * own  # [fold that gets them, fold, kind]
    uneven = (with_own / total).std(axis=1).mean(axis=1).tolist()
    best, n_scans = 0, held.sum(axis=1)
    for fold, value in enumerate(uneven):
        close = abs(value - uneven[best]) <= 1e-8 + 1e-5 * uneven[best]  # as np.isclose(), which takes far longer
        if value < uneven[best] or (close and n_scans[fold] < n_scans[best]):
            best = fold
    return best


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
