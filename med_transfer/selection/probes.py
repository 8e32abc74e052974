"""Probes of frozen features: logistic regression and nearest neighbours, cross-validated by patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from med_transfer.errors import UsageError
from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.rates import weighted_balanced_accuracy
from med_transfer.model.linear_head import fit_predict
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels
from med_transfer.selection.measures.inputs import finite_table, project_to_span

_PENALTY = 10.0  # scikit-learn's C, for rows of mean squared length 1
_NEIGHBOURS = 5
_DRAWS = 500

Make = Callable[[int], BaseEstimator]  # makes a model for a number of training scans


@dataclass(frozen=True)
class CrossValidatedPredictions:
    """Cross-validated predictions: each scan's probabilities are from a model that never saw its patient.

    Attributes:
        truth: boolean [scan, class].
        probabilities: [scan, class].
        patients: one entry per scan.
        labels: class names.
        seed: of the bootstrap of patients.
    """

    truth: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    patients: tuple[str, ...]
    labels: Labels
    seed: int = 0

    @property
    def macro_auc(self) -> float:
        """One-versus-rest area under the ROC curve, averaged over classes, in [0, 1]."""
        return float(weighted_macro_auc(self.truth, self.probabilities, np.ones((1, len(self.truth))))[0])

    @property
    def balanced_sensitivity(self) -> float:
        """Mean sensitivity over classes, or for findings the mean of sensitivity and specificity, in [0, 1]."""
        predicted = OperatingPoint.default(self.labels).predictions(self.probabilities, self.labels)
        ones = np.ones((1, len(self.truth)))
        return float(weighted_balanced_accuracy(self.truth, predicted, ones, multilabel=self.labels.multilabel)[0])

    @property
    def standard_error(self) -> float:
        """Standard error of the macro AUC: its standard deviation over bootstrap samples of patients."""
        return float(np.nanstd(self.resampled))

    @cached_property
    def resampled(self) -> NDArray[np.float64]:
        """Macro AUC in each bootstrap sample of patients, [draw]; models with the same seed share the samples."""
        bootstrap = PatientBootstrap(self.patients, _DRAWS, self.seed)
        return bootstrap.distribution(lambda weights: weighted_macro_auc(self.truth, self.probabilities, weights))

    def minus(self, other: CrossValidatedPredictions) -> tuple[float, float]:
        """Difference in macro AUC on the same scans, and its standard error over bootstrap samples of patients."""
        return self.macro_auc - other.macro_auc, float(np.nanstd(self.resampled - other.resampled))


def linear_probe(
    features: ArrayLike,
    truth: NDArray[np.bool_],
    patients: Sequence[str],
    folds: NDArray,
    labels: Labels,
    seed: int = 0,
) -> CrossValidatedPredictions:
    """Class-balanced logistic regression, cross-validated over the given folds.

    Features are standardised on the training folds and divided by the square root of their number, so that one penalty
    (C = 10) means the same for a layer of 32 features as for one of 2048. Constant features make all classes equally
    probable.

    Args:
        features: [scan, feature].
        truth: boolean [scan, class]; with several findings per scan, one model is fitted for each.
        patients: one entry per scan; no patient may be in two folds.
        folds: a fold number per scan, as from :func:`~med_transfer.predictions.patient_folds.patient_folds`.
        labels: class names.
        seed: of the bootstrap of patients.

    Raises:
        UsageError: a patient in two folds, a single fold, different numbers of scans, or features that are not a finite
            table.

    Source: linear probes, Alain & Bengio 2016, arXiv:1610.01644.
    """
    return replace(_cross_validated(features, truth, patients, folds, labels, _linear), seed=seed)


def predict_by_probe(
    features: ArrayLike, truth: NDArray[np.bool_], train: NDArray[np.bool_], test: NDArray[np.bool_], labels: Labels
) -> NDArray[np.float64]:
    """Probabilities [test scan, class] by the model of :func:`linear_probe`, fitted on the training scans.

    Args:
        features: [scan, feature].
        truth: boolean [scan, class]; only that of the training scans is used.
        train, test: boolean [scan].
        labels: class names.

    Raises:
        UsageError: features that are not a finite table.
    """
    return _predicted(finite_table(features), truth, train, test, labels, _linear)


def nearest_neighbours(
    features: ArrayLike, truth: NDArray[np.bool_], patients: Sequence[str], folds: NDArray, labels: Labels
) -> CrossValidatedPredictions:
    """Class shares among the five nearest scans of the other folds, with standardised features.

    Arguments and errors as in :func:`linear_probe`.

    Source: Wu et al. 2018, CVPR, arXiv:1805.01978.
    """
    return _cross_validated(features, truth, patients, folds, labels, _neighbours)


def _linear(n_train: int) -> BaseEstimator:
    return LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=5000, tol=1e-7)


def _neighbours(n_train: int) -> BaseEstimator:
    return KNeighborsClassifier(min(_NEIGHBOURS, n_train))


def _cross_validated(
    features: ArrayLike, truth: NDArray[np.bool_], patients: Sequence[str], folds: NDArray, labels: Labels, make: Make
) -> CrossValidatedPredictions:
    table, folds = finite_table(features), np.asarray(folds)
    _check(table, truth, patients, folds)
    probabilities = np.zeros(truth.shape)
    for fold in np.unique(folds):
        probabilities[folds == fold] = _predicted(table, truth, folds != fold, folds == fold, labels, make)
    return CrossValidatedPredictions(truth, probabilities, tuple(patients), labels)


def _predicted(
    table: NDArray[np.float64],
    truth: NDArray[np.bool_],
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    labels: Labels,
    make: Make,
) -> NDArray[np.float64]:
    """Probabilities [test scan, class] by a model fitted on the training scans."""
    points = _standardised(table, train)
    constant = not np.ptp(points[train], axis=0).any()
    model = DummyClassifier(strategy="uniform") if constant else make(int(train.sum()))
    return fit_predict(model, points[train], truth[train], points[test], multilabel=labels.multilabel)


def _check(table: NDArray, truth: NDArray[np.bool_], patients: Sequence[str], folds: NDArray) -> None:
    if not len(table) == len(truth) == len(patients) == len(folds):
        raise UsageError(
            f"{len(table)} features, {len(truth)} truths, {len(patients)} patients, {len(folds)} folds",
            expected="one of each a scan",
        )
    if len(np.unique(folds)) < 2:
        raise UsageError("one fold", expected="at least two: one to learn from and one to test on")
    by_patient = {(patient, int(fold)) for patient, fold in zip(patients, folds, strict=True)}
    if len(by_patient) > len(set(patients)):
        raise UsageError("a patient in two folds", expected="all scans of a patient in one", action="Use patient_folds")


def _standardised(table: NDArray[np.float64], train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Standardise on the training scans, divide by the square root of the number of features, and reduce the axes."""
    scaled = StandardScaler().fit(table[train]).transform(table) / np.sqrt(table.shape[1])
    return project_to_span(scaled)
