"""Runs side by side, on the test scans that they share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import CohortLock
from med_transfer.errors import UsageError
from med_transfer.evaluation import Estimate, Metrics
from med_transfer.evaluation.comparison import paired_difference
from med_transfer.evaluation.intervals import PatientBootstrap
from med_transfer.evaluation.scored import ScoredScans
from med_transfer.labels import Labels
from med_transfer.prediction import Prediction
from med_transfer.results.table import PredictionTable


@dataclass(frozen=True)
class Comparison:
    """One run against the first: differences are this run minus the first; None for the first itself."""

    run: Path
    metrics: Metrics
    n_shared: int
    macro_auc: Estimate | None = None
    balanced_sensitivity: Estimate | None = None

    def as_record(self) -> dict[str, object]:
        """For a program: plain values."""
        estimates = {
            "macro_auc": self.metrics.macro_auc,
            "balanced_sensitivity": self.metrics.balanced_accuracy,
            "macro_auc_difference": self.macro_auc,
            "balanced_sensitivity_difference": self.balanced_sensitivity,
        }
        plain = {name: estimate and estimate.model_dump(mode="json") for name, estimate in estimates.items()}
        return {"run": str(self.run), "n_shared": self.n_shared} | plain


def compare_runs(runs: list[Path], *, seed: int = 0, n_boot: int = 2000) -> list[Comparison]:
    """Each run's metrics and its paired difference to the first run, resampling patients.

    Raises:
        UsageError: fewer than two runs, a folder that is no finished run, other classes, or no shared test scans.
    """
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} run", expected="at least two to compare")
    first, *others = [_Judged.read(run) for run in runs]
    result = [Comparison(first.run, first.metrics, len(first.predictions))]
    for other in others:
        ours, theirs = _shared(first, other)
        difference = paired_difference(theirs, ours, PatientBootstrap(ours.patients, n_boot, seed))
        result.append(
            Comparison(other.run, other.metrics, len(ours), difference.macro_auc, difference.balanced_accuracy)
        )
    return result


@dataclass(frozen=True)
class _Judged:
    """A run's test scans: what was predicted and what is true, by scan."""

    run: Path
    metrics: Metrics
    predictions: dict[tuple[str, str], Prediction]
    truth: dict[tuple[str, str], str | tuple[str, ...]]

    @classmethod
    def read(cls, run: Path) -> _Judged:
        missing = [
            name for name in ("metrics.json", "predictions.csv", "cohort.lock.json") if not (run / name).exists()
        ]
        if missing:
            raise UsageError(f"no {', '.join(missing)}", where=run, expected="the folder of a finished run")
        lock = CohortLock.read(run / "cohort.lock.json")
        rows = [row for row in PredictionTable.load(run / "predictions.csv") if row.status == "ok"]
        truth = {(case.scan, case.series_uid): case.label for case in lock.cases}
        return cls(run, Metrics.load(run / "metrics.json"), {_key(row, truth): row for row in rows}, truth)

    @property
    def labels(self) -> Labels:
        return Labels(tuple(self.metrics.labels), self.metrics.multilabel)


def _key(row: Prediction, truth: dict) -> tuple[str, str]:
    return (row.scan, row.series_uid) if (row.scan, row.series_uid) in truth else (row.scan, "")


def _shared(first: _Judged, other: _Judged) -> tuple[ScoredScans, ScoredScans]:
    """The test scans that both predicted, scored by each."""
    if first.labels != other.labels:
        raise UsageError(
            f"classes {', '.join(other.metrics.labels)}", where=other.run, expected=", ".join(first.metrics.labels)
        )
    keys = sorted(set(first.predictions) & set(other.predictions))
    if not keys:
        raise UsageError(
            f"no test scan in common with {first.run}", where=other.run, expected="the same cohort and split"
        )
    truth = first.labels.one_hot([first.truth[key] for key in keys])
    patients = [first.predictions[key].patient for key in keys]
    ours = ScoredScans.of(truth, _probabilities(first, keys), patients, first.labels, first.metrics.operating_point)
    return ours, ours.scored_by(_probabilities(other, keys))


def _probabilities(judged: _Judged, keys: list[tuple[str, str]]) -> NDArray[np.float64]:
    names = judged.metrics.labels
    return np.array([[judged.predictions[key].probabilities[name] for name in names] for key in keys])
