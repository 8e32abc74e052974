"""A finished run's test scans, and those that two runs share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import CohortLock, recognise
from med_transfer.errors import UsageError
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable

Key = tuple[str, str]  # scan and series


@dataclass(frozen=True)
class FinishedRun:
    """What was predicted and what is true, by scan."""

    folder: Path
    metrics: Metrics
    predictions: dict[Key, Prediction]
    truth: dict[Key, str | tuple[str, ...]]

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Raises UsageError: not the folder of a finished run."""
        files = ("metrics.json", "predictions.csv", "cohort.lock.json")
        missing = [name for name in files if not (folder / name).exists()]
        if missing:
            raise UsageError(f"no {', '.join(missing)}", where=folder, expected="the folder of a finished run")
        lock = CohortLock.read(folder / "cohort.lock.json")
        rows = [row for row in PredictionTable.load(folder / "predictions.csv") if row.status == "ok"]
        hashes = recognise((row.scan for row in rows), (case.scan_hash for case in lock.cases if case.scan_hash))
        scans = {hashed: scan for scan, hashed in hashes.items()}
        truth = {(scans.get(case.scan_hash, case.scan), case.series_uid): case.label for case in lock.cases}
        metrics = Metrics.load(folder / "metrics.json")
        return cls(folder, metrics, {_key(row, truth): row for row in rows}, truth)

    @property
    def labels(self) -> Labels:
        """Its class names."""
        return Labels(tuple(self.metrics.labels), self.metrics.multilabel)

    @property
    def reported(self) -> Literal["network", "fused"]:
        """Whose probabilities the run's own metrics are of."""
        fusion = self.metrics.fusion
        return "fused" if fusion is not None and fusion.report == "fused" else "network"

    def probabilities(self, keys: list[Key]) -> NDArray[np.float64]:
        """[scan, class], those that the run reports: the fused model's where its metrics are of that.

        Raises:
            UsageError: a scan without fused probabilities in a run that reports them.
        """
        rows = [self.predictions[key] for key in keys]
        probabilities = [row.fused if self.reported == "fused" else row.probabilities for row in rows]
        if not all(probabilities):
            raise UsageError(
                f"{sum(not of_scan for of_scan in probabilities)} test scans without fused probabilities",
                where=self.folder / "predictions.csv",
                expected="one for every scan, as metrics.json reports them",
                action="Judge the run again",
            )
        return np.array([[of_scan[name] for name in self.metrics.labels] for of_scan in probabilities])


def _key(row: Prediction, truth: dict) -> Key:
    return (row.scan, row.series_uid) if (row.scan, row.series_uid) in truth else (row.scan, "")


def shared_scans(reference: FinishedRun, other: FinishedRun) -> tuple[LabelledPredictions, LabelledPredictions]:
    """The test scans that both predicted, as the reference and as the other scored them, each at its operating point.

    Raises:
        UsageError: other classes, no shared test scan, or a scan that the two runs label differently.
    """
    if reference.labels != other.labels:
        names = ", ".join(reference.metrics.labels)
        raise UsageError(f"classes {', '.join(other.metrics.labels)}", where=other.folder, expected=names)
    keys = sorted(set(reference.predictions) & set(other.predictions))
    if not keys:
        raise UsageError(
            f"no test scan in common with {reference.folder}", where=other.folder, expected="the same cohort and split"
        )
    _same_truth(reference, other, keys)
    truth = reference.labels.one_hot([reference.truth[key] for key in keys])
    patients = [reference.predictions[key].patient for key in keys]
    ours = LabelledPredictions.of(
        truth, reference.probabilities(keys), patients, reference.labels, reference.metrics.operating_point
    )
    theirs = replace(ours, probabilities=other.probabilities(keys), operating_point=other.metrics.operating_point)
    return ours, theirs


def _same_truth(reference: FinishedRun, other: FinishedRun, keys: list[Key]) -> None:
    differ = [key for key in keys if reference.truth[key] != other.truth[key]]
    if differ:
        raise UsageError(
            f"{len(differ)} shared test scans have another label than in {reference.folder}, the first is "
            f"{differ[0][0]}: {other.truth[differ[0]]} and not {reference.truth[differ[0]]}",
            where=other.folder,
            expected="one truth for both runs",
            action="Train both on the same table",
        )
