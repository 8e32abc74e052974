"""Baselines that a network must beat: the prevalence alone, and linear models on simple features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from med_transfer.metrics.cross_validation import fewest_patients, held_out_folds
from med_transfer.metrics.records.shortcuts import ACQUISITION_BASELINE, Shortcuts
from med_transfer.metrics.shortcuts import Development, cross_validate_acquisition
from med_transfer.model.linear_head import fit_predict
from med_transfer.predictions.patient_folds import Fold


def prevalence_only(truth_train: NDArray[np.bool_], n_scans: int) -> NDArray[np.float64]:
    """Return the class shares of the training scans as probabilities of every scan, [n_scans, class]."""
    return np.tile(truth_train.mean(axis=0), (n_scans, 1))


def fit_handcrafted(
    features_train: NDArray[np.floating],
    truth_train: NDArray[np.bool_],
    features_test: NDArray[np.floating],
    seed: int = 0,
    *,
    multilabel: bool = False,
) -> NDArray[np.float64]:
    """Fit class-balanced logistic regression on a feature table, and return probabilities [test scan, class].

    Missing and infinite features are imputed with the training median. Class balancing deliberately shifts the
    probabilities away from the prevalence: compare this baseline by sensitivity and AUC, not by calibration.

    Args:
        features_train, features_test: [scan, feature].
        truth_train: boolean [scan, class].
        seed: random seed of the solver.
        multilabel: whether a scan may have several findings; each then gets its own model.
    """
    train, test = _finite_or_nan(features_train), _finite_or_nan(features_test)
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=5000, random_state=seed),
    )
    return fit_predict(model, train, truth_train, test, multilabel=multilabel)


def cross_validate_handcrafted(
    features: NDArray[np.floating],
    truth: NDArray[np.bool_],
    folds: Sequence[Fold],
    seed: int = 0,
    *,
    multilabel: bool = False,
) -> NDArray[np.float64]:
    """Cross-validated :func:`fit_handcrafted`: each scan is predicted by a model of other patients, [scan, class].

    Args:
        features: [scan, feature].
        truth: boolean [scan, class].
        folds: at least two, from :func:`~med_transfer.metrics.cross_validation.held_out_folds`.
        seed, multilabel: as in :func:`fit_handcrafted`.
    """
    probabilities = np.zeros(truth.shape)
    for train, held_out in folds:
        probabilities[held_out] = fit_handcrafted(
            features[train], truth[train], features[held_out], seed, multilabel=multilabel
        )
    return probabilities


def _finite_or_nan(features: NDArray[np.floating]) -> NDArray[np.float64]:
    features = np.asarray(features, dtype=np.float64)
    return np.where(np.isfinite(features), features, np.nan)


FEWEST_PATIENTS = 10  # per class; with fewer, a model cross-validated within the cohort is uninformative


def cross_validate_baselines(
    features: NDArray[np.floating], scans: Development, repeats: int = 1
) -> tuple[dict[str, NDArray[np.float64]], Shortcuts | None]:
    """Cross-validate the baselines within a cohort.

    Args:
        features: handcrafted features [scan, feature].
        scans: the scans that are both learned from and predicted.
        repeats: number of divisions into folds; the probabilities of the handcrafted baseline are averaged over them.

    Returns:
        Probabilities [scan, class] by baseline name, and the shortcuts found; empty and None if a class has fewer than
        ``FEWEST_PATIENTS`` patients.
    """
    if fewest_patients(scans.truth, scans.patients) < FEWEST_PATIENTS:
        return {}, None
    divided = [held_out_folds(scans.truth, scans.patients, scans.labels, seed) for seed in range(repeats)]
    found = [
        cross_validate_handcrafted(features, scans.truth, folds, multilabel=scans.labels.multilabel)
        for folds in divided
    ]
    acquisition, shortcuts = cross_validate_acquisition(scans)
    facts = {ACQUISITION_BASELINE: acquisition} if acquisition is not None else {}
    return {"handcrafted": np.mean(found, axis=0)} | facts, shortcuts
