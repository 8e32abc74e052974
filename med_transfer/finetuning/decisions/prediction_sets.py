"""The prediction sets of a run, from its validation scans. No test scan is looked at."""

from __future__ import annotations

import logging
from itertools import chain

from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.model.calibration import PredictionSets, fit_prediction_sets
from med_transfer.model.calibration.conformal import least_patients

log = logging.getLogger(__name__)


def learn_sets(run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble) -> PredictionSets:
    """From each development scan's probabilities by the member that did not train on it, calibrated on other patients.

    Logs a warning of classes that have too few patients to be ruled out for anyone.
    """
    cohort = run_data.prepared.cohort.subset(chain.from_iterable(run_data.split.validation))
    wanted = config.calibration.set_coverage
    sets = fit_prediction_sets(trained.validation, cohort.truth, cohort.patients, wanted)
    counts = dict(zip(cohort.labels.names, sets.n_patients, strict=True))
    few = [f"{name} ({n})" for name, n in counts.items() if n < least_patients(wanted)]
    if few:
        log.warning(
            "prediction sets of coverage %g need %d validation patients of a class; in every set: %s",
            wanted,
            least_patients(wanted),
            ", ".join(few),
        )
    return sets
