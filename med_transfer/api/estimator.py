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
    """Fine-tunes on scan paths and labels; ``predict`` takes paths again.

    ``fit`` keeps a share of the patients aside for its own report (``run_.metrics``) as ``finetune`` does, which
    cross-validates fewer than 60 patients instead, and learns from all of them.

    Args:
        config: see FinetuneConfig; the path of a YAML file; None for one that suits the scans of each ``fit``, as
            :func:`med_transfer.api.plan` chooses it.
        out: run folder; None for a temporary one, which ends with the fitted estimator, with its next ``fit``, or with
            the program. A copy of the estimator, or a pickle, has the network and predicts, but not that folder.

    Attributes:
        classes_: the labels, as ``fit`` was given them, in the order of ``predict_proba``'s columns.
        run_: the run folder, with its bundle and report.
    """

    def __init__(self, config: FinetuneConfig | Path | str | None = None, out: Path | str | None = None) -> None:
        self.config = config
        self.out = out

    def __sklearn_tags__(self) -> Tags:
        """What scikit-learn may expect: paths of scans, not numbers in a table."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags

    def fit(self, X: Sequence[Path | str], y: Sequence[str], groups: Sequence[str] | None = None) -> TransferClassifier:
        """Fine-tune.

        Args:
            X: path of each scan.
            y: class name of each scan, or a number for it.
            groups: patient of each scan; without it every file is taken for another patient. ``cross_val_score``
                passes it on after ``set_fit_request(groups=True)`` under scikit-learn's metadata routing; its folds
                need ``out=None``, as each has a run folder of its own.

        Raises:
            CohortError: lengths differ, a label or patient is missing, or the cohort cannot be split; without a config,
                scans of several kinds.
        """
        # not by its number, which is that of another scan in another fit
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
        """Without the end of the folder, which is this estimator's alone."""
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_end"}

    def predict_proba(self, X: Sequence[Path | str]) -> NDArray[np.float64]:
        """Calibrated probabilities [scan, class]. Raises ScanError for a scan that cannot be used."""
        check_is_fitted(self, "run_")
        answers = [self._predictor.predict(scan).probabilities for scan in X]
        return np.array([[answer[name] for name in self._predictor.record.classes] for answer in answers])

    def predict(self, X: Sequence[Path | str]) -> NDArray:
        """The class that each scan is called at the bundle's operating point, which need not be the most probable."""
        check_is_fitted(self, "run_")
        record = self._predictor.record
        return self.classes_[record.operating_point.predictions(self.predict_proba(X), record.labels).argmax(axis=1)]


def _require_one_each(values: NDArray, what: str, where: str) -> None:
    """Raises CohortError: several a scan, or none, which would be a class, or one patient of many scans."""
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
    """Not by a process that was forked from the one that fitted."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
