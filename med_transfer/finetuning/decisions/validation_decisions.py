"""What is decided on a run's validation scans: the operating point and the prediction sets. No test scan is read."""

from __future__ import annotations

import logging
from itertools import chain

from med_transfer.cohorts import Cohort, Split
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.operating_point_selection import check_point, choose_point
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.model.calibration import PredictionSets, fit_prediction_sets
from med_transfer.model.calibration.conformal import least_patients
from med_transfer.model.operating_point import OperatingPoint

log = logging.getLogger(__name__)


def check_operating_point(cohort: Cohort, split: Split, config: FinetuneConfig) -> None:
    """Refuse an operating point that cannot be had, before anything is trained.

    Raises:
        ConfigError, TooFewPatients: as :func:`.operating_point_selection.check_point`.
    """
    check_point(config.operating_point, _validation_cohort(cohort, split).truth, cohort.labels)


def choose_operating_point(
    run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble
) -> tuple[OperatingPoint, ChosenPoint]:
    """The operating point of the ensemble that was kept, and what it reaches on the validation scans.

    Raises:
        ConfigError, TooFewPatients: as :func:`.operating_point_selection.choose_point`.
    """
    cohort = _validation_cohort(run_data.prepared.cohort, run_data.split)
    point, reached = choose_point(
        config.operating_point,
        trained.validation,
        cohort.truth,
        cohort.patients,
        cohort.labels,
        n_networks=run_data.split.n_fold_models,
        seed=config.seed,
    )
    log.info("operating point: %s; called is %s", reached.aim, point)
    return point, reached


def choose_prediction_sets(run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble) -> PredictionSets:
    """From each validation scan's probabilities by a network that did not train on it, calibrated on other patients.

    Logs a warning of classes that have too few patients to be ruled out for anyone.
    """
    cohort = _validation_cohort(run_data.prepared.cohort, run_data.split)
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


def _validation_cohort(cohort: Cohort, split: Split) -> Cohort:
    """In the order of :attr:`TrainedEnsemble.validation`."""
    return cohort.subset(chain.from_iterable(split.validation))
