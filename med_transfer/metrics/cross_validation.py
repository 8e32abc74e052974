"""Cross-validation folds within one cohort, by patient, so that no model predicts patients it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import Fold, held_out_in_turn, patient_folds

_FOLDS = 5


def held_out_folds(truth: NDArray[np.bool_], patients: Sequence[str], labels: Labels, seed: int = 0) -> list[Fold]:
    """Divide scans into at most five folds by patient.

    Args:
        truth: boolean [scan, class].
        patients: patient of each scan.
        labels: exclusive classes are stratified, findings are not.
        seed: random seed of the division.

    Returns:
        Positions of training and held-out scans per fold; each scan is held out once. Empty if a class has fewer than
        two patients.
    """
    everyone = np.asarray(patients, dtype=str)
    folds = min(_FOLDS, fewest_patients(truth, patients))
    if folds < 2:
        return []
    if not labels.multilabel:
        return held_out_in_turn(patient_folds(truth.argmax(axis=1), patients, folds, seed))
    names = np.unique(everyone)
    divided = KFold(folds, shuffle=True, random_state=seed).split(names)
    held_out = [np.isin(everyone, names[chosen]) for _, chosen in divided]
    return [(np.flatnonzero(~rows), np.flatnonzero(rows)) for rows in held_out]


def fewest_patients(truth: NDArray[np.bool_], patients: Sequence[str]) -> int:
    """Return the number of patients with the rarest class or finding; ``truth`` is boolean [scan, class]."""
    everyone = np.asarray(patients, dtype=str)
    return min(len(set(everyone[column])) for column in truth.T)
