"""Decisions on a run's validation scans: operating point and prediction sets. No test scan is read."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import Cohort, Split
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.operating_point_selection import check_point, choose_point, select_point
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.model.calibration import PredictionSets, fit_prediction_sets
from med_transfer.model.calibration.conformal import least_patients
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.patient_folds import Fold, held_out_in_turn, patient_folds

log = logging.getLogger(__name__)

_FOLDS = 5


def check_operating_point(cohort: Cohort, split: Split, config: FinetuneConfig) -> None:
    """Refuse an operating point that is impossible, before anything is trained.

    Without test cases it must also be possible in each cross-fitting fold of the validation patients.

    Raises:
        ConfigError, TooFewPatients: as :func:`.operating_point_selection.check_point`.
    """
    validation = cohort.subset(split.validated)
    check_point(config.operating_point, validation.truth, cohort.labels)
    for learned_from, _ in () if split.test else _folds(validation):
        check_point(config.operating_point, validation.truth[learned_from], cohort.labels)


def choose_operating_point(
    run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble
) -> tuple[OperatingPoint, ChosenPoint]:
    """The operating point of the ensemble that was kept, and what it reaches on the validation scans.

    Raises:
        ConfigError, TooFewPatients: as :func:`.operating_point_selection.choose_point`.
    """
    cohort = run_data.prepared.cohort.subset(run_data.split.validated)
    predictions = _predictions(cohort, trained)
    if config.operating_point.rule == "balanced_argmax":
        predictions = replace(predictions, calls=trained.balanced_calls(cohort.labels))
    point, reached = choose_point(config.operating_point, predictions, n_networks=run_data.split.n_fold_models)
    log.info("operating point: %s; called is %s", reached.aim, point)
    return point, reached


def choose_prediction_sets(run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble) -> PredictionSets:
    """Prediction sets from out-of-fold probabilities of the validation scans, calibrated on other patients.

    Logs a warning for classes with too few patients ever to be ruled out.
    """
    cohort = run_data.prepared.cohort.subset(run_data.split.validated)
    coverage = config.calibration.set_coverage
    sets = fit_prediction_sets(trained.validation, cohort.truth, cohort.patients, coverage)
    counts = dict(zip(cohort.labels.names, sets.n_patients, strict=True))
    few = [f"{name} ({n})" for name, n in counts.items() if n < least_patients(coverage)]
    if few:
        log.warning(
            "prediction sets of coverage %g need %d validation patients of a class; in every set: %s",
            coverage,
            least_patients(coverage),
            ", ".join(few),
        )
    return sets


def cross_fitted_decisions(
    run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble
) -> list[tuple[NDArray[np.intp], OperatingPoint, PredictionSets]]:
    """Cross-fitted decisions: positions of held-out validation scans, and the decisions made on all other patients.

    Each validation scan is held out once. Used to evaluate on validation scans if there is no test part, so that no
    decision depends on the patients that it is evaluated on.
    """
    cohort, coverage = run_data.prepared.cohort.subset(run_data.split.validated), config.calibration.set_coverage
    predictions, balanced = _predictions(cohort, trained), trained.balanced_points(cohort.labels)
    decided = []
    for learned_from, left_out in _folds(cohort):
        others = predictions.take(np.isin(np.arange(len(predictions)), learned_from))
        sets = fit_prediction_sets(others.probabilities, others.truth, others.patients, coverage)
        for rows, own in balanced:  # the calibration has the same folds: one part for each
            if len(part := np.intersect1d(left_out, rows)):
                point = select_point(config.operating_point, replace(others, operating_point=own))
                decided.append((part, point, sets))
    return decided


def cross_fitted_calls(run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble) -> NDArray[np.bool_]:
    """Calls [scan, class] of the validation scans by the operating points of :func:`cross_fitted_decisions`."""
    calls = np.zeros(trained.validation.shape, dtype=bool)
    for rows, point, _ in cross_fitted_decisions(run_data, config, trained):
        calls[rows] = point.predictions(trained.validation[rows], run_data.prepared.cohort.labels)
    return calls


def _folds(cohort: Cohort) -> list[Fold]:
    n_folds = min(_FOLDS, len(set(cohort.patients)))
    return held_out_in_turn(patient_folds(cohort.truth, cohort.patients, n_folds))


def _predictions(cohort: Cohort, trained: TrainedEnsemble) -> LabelledPredictions:
    point = trained.balanced_point(cohort.labels)
    return LabelledPredictions.of(cohort.truth, trained.validation, cohort.patients, cohort.labels, point)
