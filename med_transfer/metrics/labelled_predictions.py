"""Test scans with truth and probabilities, validated once at construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors import CohortError, NothingDone, UsageError
from med_transfer.errors.numbers import counted
from med_transfer.metrics.reasons import EVALUATED_SCANS
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

_ROUNDING = 1e-5  # tolerance for a float32 softmax outside [0, 1]
_SUM_ROUNDING = 1e-3  # tolerance for the sum of probabilities written with few decimals


@dataclass(frozen=True, eq=False)
class LabelledPredictions:
    """Truth, probabilities and patients of the same scans.

    Attributes:
        truth: boolean [scan, class].
        probabilities: [scan, class], in [0, 1].
        patients: patient of each scan.
        labels: names of the classes.
        operating_point: how probabilities become calls.
        calls: boolean [scan, class], if thresholds differ between scans; None applies ``operating_point``.
        out_of_fold: whether the predictions are cross-validated, so that patients also trained the models of others.
        scans: how sentences refer to the scans when a measure is undefined.

    Raises:
        NothingDone: there is no scan.
        UsageError: shapes disagree, a probability is missing or outside [0, 1], or the probabilities of exclusive
            classes do not sum to 1.
        CohortError: a scan has not exactly one of the exclusive classes.
    """

    truth: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    patients: Sequence[str]
    labels: Labels
    operating_point: OperatingPoint
    scans: str = EVALUATED_SCANS
    calls: NDArray[np.bool_] | None = None
    out_of_fold: bool = False

    def __post_init__(self) -> None:
        n_scans = len(self.patients)
        expected = (n_scans, len(self.labels))
        for name, array in (("truth", self.truth), ("probabilities", self.probabilities)):
            if array.shape != expected:
                raise UsageError(f"shape {array.shape}", where=name, expected=f"{expected} = (scans, classes)")
        if not n_scans:
            raise NothingDone("no scan has a prediction", action="See the reasons of the scans that failed")
        within = (self.probabilities >= -_ROUNDING) & (self.probabilities <= 1 + _ROUNDING)  # false for NaN
        outside = ~within.all(axis=1)
        if outside.any():
            raise UsageError(
                f"{outside.sum()} of {n_scans} scans have a probability that is missing or out of range",
                where="probabilities",
                expected="numbers from 0 to 1",
            )
        off = np.abs(self.probabilities.sum(axis=1) - 1) > _SUM_ROUNDING
        if not self.labels.multilabel and off.any():
            raise UsageError(
                f"the probabilities of {off.sum()} of {n_scans} scans do not sum to 1",
                where="probabilities",
                expected="a sum of 1 over the classes, of which a scan has one",
                action="Apply softmax, or declare several findings a scan",
            )
        if not self.labels.multilabel and (odd := int((self.truth.sum(axis=1) != 1).sum())):
            raise CohortError(
                f"{counted(odd, 'scan')} without exactly one class", where="truth", expected="one class a scan"
            )

    @classmethod
    def of(
        cls,
        truth: NDArray[np.bool_],
        probabilities: NDArray[np.floating],
        patients: Sequence[str],
        labels: Labels,
        operating_point: OperatingPoint | None = None,
    ) -> LabelledPredictions:
        """Build from array-likes; without an operating point, the default of the labels is used."""
        return cls(
            truth=np.asarray(truth, dtype=bool),
            probabilities=np.asarray(probabilities, dtype=np.float64),
            patients=tuple(str(patient) for patient in patients),
            labels=labels,
            operating_point=operating_point or OperatingPoint.default(labels),
        )

    def __len__(self) -> int:
        return len(self.patients)

    @cached_property
    def predicted(self) -> NDArray[np.bool_]:
        """Calls at the operating point, boolean [scan, class]."""
        if self.calls is not None:
            return self.calls
        return self.operating_point.predictions(self.probabilities, self.labels)

    @cached_property
    def n_patients(self) -> int:
        """Number of distinct patients."""
        return len(set(self.patients))

    @property
    def clustered(self) -> bool:
        """Whether any patient has several scans."""
        return self.n_patients < len(self)

    def patients_among(self, scans: NDArray[np.bool_]) -> int:
        """Return the number of patients among the scans marked in a boolean [scan]."""
        return len({patient for patient, marked in zip(self.patients, scans, strict=True) if marked})

    def scored_by(self, probabilities: NDArray[np.floating]) -> LabelledPredictions:
        """Return the same scans with other probabilities [scan, class], for a baseline or a second network."""
        return replace(self, probabilities=np.asarray(probabilities, dtype=np.float64), calls=None)

    def take(self, scans: NDArray[np.bool_]) -> LabelledPredictions:
        """Return only the scans marked in a boolean [scan]."""
        patients = tuple(patient for patient, marked in zip(self.patients, scans, strict=True) if marked)
        calls = self.calls[scans] if self.calls is not None else None
        return replace(
            self, truth=self.truth[scans], probabilities=self.probabilities[scans], patients=patients, calls=calls
        )
