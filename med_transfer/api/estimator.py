"""scikit-learn's interface over fine-tuning, for notebooks and model comparison."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from med_transfer.api import finetune
from med_transfer.cohorts import Case, Cohort
from med_transfer.cohorts.label_text import is_missing
from med_transfer.errors import CohortError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.inference import load_bundle
from med_transfer.predictions.labels import Labels


class TransferClassifier(ClassifierMixin, BaseEstimator):
    """Classifier that fine-tunes a backbone on scan paths and labels, and predicts from scan paths.

    Like ``finetune``, ``fit`` holds out a test set of patients for its own report (``run_.metrics``). With fewer than
    60 patients it cross-validates instead and trains on all of them.

    Args:
        config: a FinetuneConfig, the path of a YAML file, or None to plan one from the scans of each ``fit`` with
            :func:`med_transfer.api.plan`.
        out: run folder. None uses a temporary one, deleted with the fitted estimator, at its next ``fit``, or when the
            program exits. A copied or unpickled estimator can predict but does not own that folder.

    Attributes:
        classes_: the labels as passed to ``fit``, in the column order of ``predict_proba``.
        run_: the run, with its bundle and report.
    """

    def __init__(self, config: FinetuneConfig | Path | str | None = None, out: Path | str | None = None) -> None:
        self.config = config
        self.out = out

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that X holds paths, not a 2D numeric array."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags

    def fit(self, X: Sequence[Path | str], y: Sequence[str], groups: Sequence[str] | None = None) -> TransferClassifier:
        """Fine-tune.

        Args:
            X: path of each scan.
            y: class name or class number of each scan.
            groups: patient of each scan; None treats every file as a different patient. ``cross_val_score`` passes it
                on after ``set_fit_request(groups=True)`` under scikit-learn's metadata routing, and needs
                ``out=None``, since each fold has its own run folder.

        Raises:
            CohortError: lengths differ, a label or patient is missing, the cohort cannot be split, or, without a
                config, the scans are of several modalities or body parts.
        """
        # identified by path: an index would mean another scan in the next fit
        paths = [Path(scan).resolve() for scan in X]
        patients = groups if groups is not None else list(map(str, paths))
        if not len(X) == len(y) == len(patients):
            raise CohortError(f"{len(X)} scans, {len(y)} labels, {len(patients)} patients", expected="equal numbers")
        labels = np.asarray(y)
        _require_one_each(labels, "label", "y")
        _require_one_each(np.asarray(patients), "patient", "groups")
        cases = tuple(
            Case(scan=str(scan), path=path, patient=str(patient), label=str(label))
            for scan, path, label, patient in zip(X, paths, labels, patients, strict=True)
        )
        classes = np.unique(labels)
        cohort = Cohort(cases, Labels(tuple(map(str, classes))))
        self._end_temporary()
        self.run_ = finetune(cohort, self.config, self.out or self._temporary())
        self._predictor = load_bundle(self.run_.bundle)
        self.classes_ = classes
        return self

    def _temporary(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="med-transfer-"))
        self._end = weakref.finalize(self, _remove, folder, os.getpid())
        return folder / "run"

    def _end_temporary(self) -> None:
        if end := getattr(self, "_end", None):
            end()

    def __getstate__(self) -> dict[str, Any]:
        """Drop the finalizer: only this estimator may delete its temporary folder."""
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_end"}

    def predict_proba(self, X: Sequence[Path | str]) -> NDArray[np.float64]:
        """Return calibrated probabilities [scan, class]. Raises ScanError for a scan that cannot be used."""
        check_is_fitted(self, "run_")
        answers = [self._predictor.predict(scan).probabilities for scan in X]
        return np.array([[answer[name] for name in self._predictor.record.classes] for answer in answers])

    def predict(self, X: Sequence[Path | str]) -> NDArray:
        """Return each scan's class at the bundle's operating point, which need not be the most probable one."""
        check_is_fitted(self, "run_")
        record = self._predictor.record
        return self.classes_[record.operating_point.predictions(self.predict_proba(X), record.labels).argmax(axis=1)]


def _require_one_each(values: NDArray, what: str, where: str) -> None:
    """Raise CohortError unless each scan has exactly one value; missing values would count as one class or patient."""
    if values.ndim != 1:
        raise CohortError(f"shape {values.shape}", where=where, expected=f"one {what} a scan")
    lacking = [number for number, value in enumerate(values) if value is None or is_missing(str(value))]
    if lacking:
        raise CohortError(
            f"scan {lacking[0] + 1} has no {what} ({len(lacking)} in all)",
            where=where,
            expected="one for every scan",
            action="Fill it, or leave the scan out",
        )


def _remove(folder: Path, owner: int) -> None:
    """Delete the folder, except in a process forked from the one that fitted."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
