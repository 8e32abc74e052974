"""The operating point of a run, from its validation scans. No test scan is looked at."""

from __future__ import annotations

import logging
from itertools import chain

from med_transfer.cohorts import Cohort, Split
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.operating_point_selection import check_point, choose_point
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.metrics.decision_records import ChosenPoint
from med_transfer.model.operating_point import OperatingPoint

log = logging.getLogger(__name__)


def check_decisions(cohort: Cohort, split: Split, config: FinetuneConfig) -> None:
    """Refuse an operating point that cannot be had, before anything is trained.

    Raises:
        ConfigError, TooFewPatients: as :func:`med_transfer.finetuning.decisions.operating_point_selection.check_point`.
    """
    check_point(config.operating_point, cohort.subset(_validation(split)).truth, cohort.labels)


def decide(run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble) -> tuple[OperatingPoint, ChosenPoint]:
    """The operating point of the ensemble that was kept, and what it reaches on the validation scans.

    Raises:
        ConfigError, TooFewPatients: as :func:`.operating_point_selection.choose_point`.
    """
    cohort = run_data.prepared.cohort.subset(_validation(run_data.split))
    point, reached = choose_point(
        config.operating_point,
        trained.validation,
        cohort.truth,
        cohort.patients,
        cohort.labels,
        n_networks=run_data.split.n_members,
        seed=config.seed,
    )
    log.info("operating point: %s; called is %s", reached.aim, point)
    return point, reached


def _validation(split: Split) -> list[int]:
    """In the order of :attr:`TrainedEnsemble.validation`."""
    return list(chain.from_iterable(split.validation))
