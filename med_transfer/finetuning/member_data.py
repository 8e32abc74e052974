"""The scans of one member of the ensemble."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import PreparedCohort, Split


@dataclass(frozen=True)
class FoldData:
    """Prepared tensors and truth of one member's training and validation part, and tensors that have no truth."""

    train_tensors: list[NDArray[np.float16]]
    train_truth: NDArray[np.bool_]
    val_tensors: list[NDArray[np.float16]]
    val_truth: NDArray[np.bool_]
    unlabelled: list[NDArray[np.float16]] = field(default_factory=list)


def fold_data(
    prepared: PreparedCohort, split: Split, number: int, unlabelled: PreparedCohort | None = None
) -> FoldData:
    """The training and validation part of one member; unlabelled scans are the same for all."""
    tensors, truth = prepared.tensors, prepared.cohort.truth
    training, validation = list(split.training(number)), list(split.validation[number])
    return FoldData(
        [tensors[i] for i in training],
        truth[training],
        [tensors[i] for i in validation],
        truth[validation],
        unlabelled.tensors if unlabelled else [],
    )
