"""The scans of one member of the ensemble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import PreparedCohort, Split


@dataclass(frozen=True)
class MemberData:
    """Prepared tensors and truth of one member's training and validation part."""

    train_tensors: list[NDArray[np.float16]]
    train_truth: NDArray[np.bool_]
    val_tensors: list[NDArray[np.float16]]
    val_truth: NDArray[np.bool_]


def member_data(prepared: PreparedCohort, split: Split, number: int) -> MemberData:
    """The training and validation part of one member."""
    tensors, truth = prepared.tensors, prepared.cohort.truth
    training, validation = list(split.training(number)), list(split.validation[number])
    return MemberData(
        [tensors[i] for i in training], truth[training], [tensors[i] for i in validation], truth[validation]
    )
