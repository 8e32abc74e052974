"""scikit-learn's interface over fine-tuning, for notebooks and model comparison."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from med_transfer.api import finetune
from med_transfer.cohorts import Case, Cohort
from med_transfer.cohorts.label_text import lacks_identifier
from med_transfer.errors import CohortError, UsageError, given_path
from med_transfer.errors.numbers import counted
from med_transfer.finetuning import FinetuneConfig
from med_transfer.inference import load_bundle


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
            MissingLabel: a scan does not exist.
            CohortError: lengths differ, a label or patient is missing, a scan is there twice, two classes or patients
                are probably one, the cohort cannot be split, or, without a config, the scans are of several modalities
                or body parts.
            UsageError: X is not a sequence of paths.
        """
        scans = _listed(X)
        # identified by path: an index would mean another scan in the next fit
        paths = [given_path(scan, f"X, scan {number}").resolve() for number, scan in enumerate(scans, start=1)]
        labels = np.asarray(y)
        _require_one_each(labels, "label", "y")
        patients = np.asarray(groups if groups is not None else list(map(str, paths)))
        _require_one_each(patients, "patient", "groups")
        if not len(scans) == len(labels) == len(patients):
            raise CohortError(
                ", ".join(
                    counted(len(given), name)
                    for given, name in ((scans, "scan"), (labels, "label"), (patients, "patient"))
                ),
                expected="equal numbers",
            )
        cases = [
            Case(scan=str(scan), path=path, patient=str(patient), label=str(label), row=row)
            for row, (scan, path, label, patient) in enumerate(zip(scans, paths, labels, patients, strict=True), 1)
        ]
        classes = _classes(labels)
        cohort = Cohort.of(cases, list(map(str, classes)), "X, y", named_patients=groups is not None)
        with self._run_folder() as folder:
            run = finetune(cohort, self.config, folder)
            predictor = load_bundle(run.bundle)
        self.run_, self._predictor, self.classes_ = run, predictor, classes
        return self

    @contextmanager
    def _run_folder(self) -> Iterator[Path | str]:
        """The run folder. A temporary one replaces that of the last fit only if the block ends without an error."""
        if self.out is not None:
            yield self.out
            end = None
        else:
            folder = Path(tempfile.mkdtemp(prefix="med-transfer-"))
            end = weakref.finalize(self, _remove, folder, os.getpid())
            try:
                yield folder / "run"
            except BaseException:
                end()
                raise
        if before := getattr(self, "_end", None):
            before()
        self._end = end

    def __getstate__(self) -> dict[str, Any]:
        """Drop the finalizer: only this estimator may delete its temporary folder."""
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_end"}

    def predict_proba(self, X: Sequence[Path | str]) -> NDArray[np.float64]:
        """Return calibrated probabilities [scan, class], of the model whose figures the run reports.

        Raises:
            ScanError: a scan cannot be used, or not by the fused model if that is the reported one.
            UsageError: X is not a sequence of scans.
        """
        check_is_fitted(self, "run_")
        names, reported = self._predictor.record.classes, self._predictor.record.reported_probabilities
        answers = [reported(self._predictor.predict(scan)) for scan in _listed(X)]
        return np.array([[answer[name] for name in names] for answer in answers], float).reshape(-1, len(names))

    def predict(self, X: Sequence[Path | str]) -> NDArray:
        """Return each scan's class at the bundle's operating point, which need not be the most probable one."""
        check_is_fitted(self, "run_")
        record = self._predictor.record
        return self.classes_[record.reported_point.predictions(self.predict_proba(X), record.labels).argmax(axis=1)]


def _listed(scans: Any) -> list:
    """The scans of a sequence. Text is a sequence of its letters, each of which may be a path: ``/`` is a whole disk.

    Raises:
        UsageError: it is a single path, or a table.
    """
    shape = getattr(scans, "shape", (0,))
    if isinstance(scans, str | bytes | os.PathLike) or not isinstance(scans, Iterable) or len(shape) != 1:
        found = f"shape {shape}" if len(shape) != 1 else f"found an object of type {type(scans).__name__}"
        raise UsageError(
            found,
            where="X",
            expected="a sequence of paths, one a scan",
            action="Put a single scan into a list; take one column of a table",
        )
    return list(scans)


def _classes(labels: NDArray) -> NDArray:
    """The distinct labels in sorted order. Raises CohortError for labels of types that have no order."""
    try:
        return np.unique(labels)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels})
        raise CohortError(
            f"labels of types {', '.join(kinds)}",
            where="y",
            expected="one type",
            action="Convert them, as by map(str, y)",
        ) from None


def _require_one_each(values: NDArray, what: str, where: str) -> None:
    """Raise CohortError unless each scan has exactly one value; missing values would count as one class or patient."""
    if values.ndim != 1:
        raise CohortError(f"shape {values.shape}", where=where, expected=f"one {what} a scan")
    lacking = [number for number, value in enumerate(values) if value is None or lacks_identifier(str(value))]
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
