"""Test scans of a finished run, and those shared by two runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import CohortLock, recognise
from med_transfer.errors import UsageError
from med_transfer.errors.numbers import counted
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.predictions.by_repeat import REPEATS_FILE, read_by_repeat
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable

Key = tuple[str, str]  # scan and series
Pairing = Literal["test", "folds", "first repeat", "other folds"]


@dataclass(frozen=True)
class FinishedRun:
    """Predictions and truth of a finished run, by scan.

    Attributes:
        folds: role of each scan in each repeat of a cross-validation that its predictions are the mean of.
        content_hashes: of each scan's voxels; None where unknown.
    """

    folder: Path
    metrics: Metrics
    predictions: dict[Key, Prediction]
    truth: dict[Key, str | tuple[str, ...]]
    folds: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    content_hashes: dict[Key, str | None] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Read a run folder. Raises UsageError if it is not a finished run, or has several regions per scan."""
        files = ("metrics.json", "predictions.csv", "cohort.lock.json")
        missing = [name for name in files if not (folder / name).exists()]
        if missing:
            raise UsageError(f"no {', '.join(missing)}", where=folder, expected="the folder of a finished run")
        lock = CohortLock.read(folder / "cohort.lock.json")
        rows = [row for row in PredictionTable.load(folder / "predictions.csv") if row.status == "ok"]
        hashes = recognise((row.scan for row in rows), (case.scan_hash for case in lock.cases if case.scan_hash))
        scans = {hashed: scan for scan, hashed in hashes.items()}
        keys = [(scans.get(case.scan_hash, case.scan), case.series_uid) for case in lock.cases]
        cases = dict(zip(keys, lock.cases, strict=True))
        truth = {key: case.label for key, case in cases.items()}
        metrics = Metrics.load(folder / "metrics.json")
        # A from-scratch baseline that was kept is trained in the first repeat alone, whatever the lock has.
        further = metrics.repeats is not None
        folds = {key: (case.role, *(case.further_roles if further else ())) for key, case in cases.items()}
        predictions = {_key(row, truth): row for row in rows}
        _require_one_row_a_scan([key for key in keys if key in predictions], folder)
        content_hashes = {key: case.content_hash for key, case in cases.items()}
        return cls(folder, metrics, predictions, truth, folds, content_hashes)

    @property
    def labels(self) -> Labels:
        """The run's classes."""
        return Labels(tuple(self.metrics.labels), self.metrics.multilabel)

    @property
    def reported(self) -> Literal["network", "fused"]:
        """Whether the run's metrics are those of the network or of the fused model."""
        fusion = self.metrics.fusion
        return "fused" if fusion is not None and fusion.report == "fused" else "network"

    def probabilities(self, keys: list[Key]) -> NDArray[np.float64]:
        """Return the probabilities [scan, class] that the run reports, of the network or the fused model.

        Raises:
            UsageError: a scan has no fused probabilities although the run reports them.
        """
        rows = [self.predictions[key] for key in keys]
        probabilities = [row.fused if self.reported == "fused" else row.probabilities for row in rows]
        if not all(probabilities):
            raise UsageError(
                f"{sum(not of_scan for of_scan in probabilities)} test scans without fused probabilities",
                where=self.folder / "predictions.csv",
                expected="one for every scan, as metrics.json reports them",
                action="Evaluate the run again",
            )
        return np.array([[of_scan[name] for name in self.metrics.labels] for of_scan in probabilities])

    def calls(self, keys: list[Key]) -> NDArray[np.bool_] | None:
        """Return the calls [scan, class] of a cross-validated run; None if the run's operating point applies to all."""
        if not self.metrics.out_of_fold:
            return None
        return self.labels.one_hot([_names(self.predictions[key].predicted, self.labels) for key in keys])

    def first_repeat(self) -> FinishedRun:
        """Return the run with the predictions of its first repeat. Raises UsageError if the table cannot be read."""
        if self.metrics.repeats is None:
            return self
        rows = read_by_repeat(self.folder / REPEATS_FILE, self.metrics.labels)
        rows_by_scan = {(row.scan, row.series_uid): row for row in rows if row.repeat == 1}
        predictions = {
            key: replace(
                prediction,
                probabilities=dict(zip(self.metrics.labels, rows_by_scan[key].probabilities, strict=True)),
                predicted=rows_by_scan[key].predicted,
            )
            for key, prediction in self.predictions.items()
            if key in rows_by_scan
        }
        return replace(self, predictions=predictions, folds={key: roles[:1] for key, roles in self.folds.items()})


def _require_one_row_a_scan(keys: list[Key], folder: Path) -> None:
    """Refuse several regions per scan, which neither the table nor the lock can tell apart."""
    scans = [key for key, n in Counter(keys).items() if n > 1]
    if scans:
        raise UsageError(
            f"{sum(key in scans for key in keys)} rows are of {counted(len(scans), 'scan')}",
            where=folder,
            expected="one region a scan, by which two runs' rows can be matched",
            action="Compare the intervals in the runs' own reports",
        )


def _names(predicted: str, labels: Labels) -> str | list[str]:
    return [name for name in predicted.split(";") if name] if labels.multilabel else predicted


def with_shared_folds(reference: FinishedRun, other: FinishedRun) -> tuple[FinishedRun, FinishedRun, Pairing]:
    """Return two runs reduced to equal folds if possible, and the kind of pairing (see :class:`Comparison`).

    Cross-validated runs are returned whole if all their folds are equal, or with only the first repeat if its folds
    are; otherwise both runs are returned unchanged.

    Raises:
        UsageError: the table of a run's repeats cannot be read.
    """
    if not (reference.metrics.out_of_fold and other.metrics.out_of_fold):
        return reference, other, "test"
    shared = sorted(set(reference.predictions) & set(other.predictions))
    ours, theirs = ([run.folds[key] for key in shared] for run in (reference, other))
    if ours == theirs:
        return reference, other, "folds"
    if [roles[0] for roles in ours] == [roles[0] for roles in theirs]:
        return reference.first_repeat(), other.first_repeat(), "first repeat"
    return reference, other, "other folds"


def _key(row: Prediction, truth: dict) -> Key:
    return (row.scan, row.series_uid) if (row.scan, row.series_uid) in truth else (row.scan, "")


def shared_scans(reference: FinishedRun, other: FinishedRun) -> tuple[LabelledPredictions, LabelledPredictions]:
    """Return the predictions of both runs on their shared test scans, each at its own operating point.

    Raises:
        UsageError: classes differ, no test scan is shared, or a scan has another patient or label in the two runs.
    """
    if reference.labels != other.labels:
        names = ", ".join(reference.metrics.labels)
        raise UsageError(f"classes {', '.join(other.metrics.labels)}", where=other.folder, expected=names)
    keys = sorted(set(reference.predictions) & set(other.predictions))
    if not keys:
        raise UsageError(
            f"no test scan in common with {reference.folder}", where=other.folder, expected="the same cohort and split"
        )
    _require_same_patients_and_truth(reference, other, keys)
    truth = reference.labels.one_hot([reference.truth[key] for key in keys])
    patients = [reference.predictions[key].patient for key in keys]
    ours = LabelledPredictions.of(
        truth, reference.probabilities(keys), patients, reference.labels, reference.metrics.operating_point
    )
    out_of_fold = reference.metrics.out_of_fold or other.metrics.out_of_fold
    ours = replace(ours, calls=reference.calls(keys), out_of_fold=out_of_fold)
    theirs = replace(
        ours,
        probabilities=other.probabilities(keys),
        operating_point=other.metrics.operating_point,
        calls=other.calls(keys),
    )
    return ours, theirs


def other_images(reference: FinishedRun, other: FinishedRun) -> int:
    """Return how many shared test scans, matched by their paths, hold other voxels in the other run."""
    pairs = [
        (reference.content_hashes.get(key), other.content_hashes.get(key))
        for key in set(reference.predictions) & set(other.predictions)
    ]
    return sum(ours != theirs for ours, theirs in pairs if ours and theirs)


def _require_same_patients_and_truth(reference: FinishedRun, other: FinishedRun, keys: list[Key]) -> None:
    patients = [key for key in keys if reference.predictions[key].patient != other.predictions[key].patient]
    if patients:  # as in two tables whose scans have the same relative paths
        raise UsageError(
            f"{_shared(len(patients), 'is', 'are')} of another patient than in {reference.folder}, the first is "
            f"{patients[0][0]}",
            where=other.folder,
            expected="the same scans of the same patients",
            action="Train both on the same table",
        )
    differ = [key for key in keys if reference.truth[key] != other.truth[key]]
    if differ:
        raise UsageError(
            f"{_shared(len(differ), 'has', 'have')} another label than in {reference.folder}, the first is "
            f"{differ[0][0]}: {other.truth[differ[0]]} and not {reference.truth[differ[0]]}",
            where=other.folder,
            expected="one truth for both runs",
            action="Train both on the same table",
        )


def _shared(n: int, one: str, many: str) -> str:
    return f"{counted(n, 'shared test scan')} {one if n == 1 else many}"
