"""What a network must beat to be worth its trouble: the prevalence alone, and a linear model on simple features."""

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
from med_transfer.metrics.shortcuts import Development, acquisition_within
from med_transfer.model.linear_head import fit_predict
from med_transfer.predictions.patient_folds import Fold


def prevalence_only(truth_train: NDArray[np.bool_], n_scans: int) -> NDArray[np.float64]:
    """The classes' shares among the training scans, for every scan alike: [n_scans, class]."""
    return np.tile(truth_train.mean(axis=0), (n_scans, 1))


def fit_handcrafted(
    features_train: NDArray[np.floating],
    truth_train: NDArray[np.bool_],
    features_test: NDArray[np.floating],
    seed: int = 0,
    *,
    multilabel: bool = False,
) -> NDArray[np.float64]:
    """Class-balanced logistic regression on a feature table: probabilities [test scan, class].

    Missing and infinite features take the training median. Class balance shifts the probabilities away from
    the prevalence on purpose: sensitivity and AUC of this baseline are to be compared, not its calibration.

    Args:
        features_train, features_test: [scan, feature].
        truth_train: boolean [scan, class].
        seed: of the solver.
        multilabel: several findings a scan: one model a finding.
    """
    train, test = _finite_or_nan(features_train), _finite_or_nan(features_test)
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=5000, random_state=seed),
    )
    return fit_predict(model, train, truth_train, test, multilabel=multilabel)


def handcrafted_within(
    features: NDArray[np.floating],
    truth: NDArray[np.bool_],
    folds: Sequence[Fold],
    seed: int = 0,
    *,
    multilabel: bool = False,
) -> NDArray[np.float64]:
    """As :func:`fit_handcrafted`, for scans of which no others are at hand: each is predicted from other patients'.

    Args:
        features: [scan, feature]; truth: boolean [scan, class].
        folds: from :func:`~med_transfer.metrics.cross_validation.held_out_folds`; at least two.
        seed, multilabel: as there.
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


FEWEST_PATIENTS = 10  # of a class; below that a model that is fitted within the cohort says nothing


def baselines_within(
    features: NDArray[np.floating], scans: Development, repeats: int = 1
) -> tuple[dict[str, NDArray[np.float64]], Shortcuts | None]:
    """Name to probabilities [scan, class], and what the acquisition gives away; nothing where a class has few patients.

    Args:
        features: handcrafted ones [scan, feature].
        scans: which learn from each other.
        repeats: in other folds each time; the probabilities of handcrafted features are the mean.
    """
    if fewest_patients(scans.truth, scans.patients) < FEWEST_PATIENTS:
        return {}, None
    divided = [held_out_folds(scans.truth, scans.patients, scans.labels, seed) for seed in range(repeats)]
    found = [handcrafted_within(features, scans.truth, folds, multilabel=scans.labels.multilabel) for folds in divided]
    acquisition, shortcuts = acquisition_within(scans)
    facts = {ACQUISITION_BASELINE: acquisition} if acquisition is not None else {}
    return {"handcrafted": np.mean(found, axis=0)} | facts, shortcuts
