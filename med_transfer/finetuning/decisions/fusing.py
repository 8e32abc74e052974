"""Fusion of the network's output with handcrafted features and clinical columns. No test scan is used."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import Cohort, Split
from med_transfer.cohorts.handcrafted import FEATURE_NAMES
from med_transfer.errors import CohortError, ConfigError
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.fusion import Fusion, FusionScans
from med_transfer.fusion.clinical import learn_column
from med_transfer.fusion.fitting import DevelopmentScans, fit_fusion, require_patients
from med_transfer.fusion.leaks import leaking_columns

log = logging.getLogger(__name__)


def check_fusion(cohort: Cohort, split: Split, config: FinetuneConfig, *, warn: bool = False) -> None:
    """Refuse a fusion that cannot be fitted, before anything is trained; ``warn`` also of columns that leak the label.

    Raises:
        ConfigError: there are no test cases; the fusion is fitted on all others, so none would be left to evaluate on.
        CohortError: a column is missing or constant, or cannot be read.
        TooFewPatients: too few scans to learn from.
    """
    if config.fusion is None:
        return
    if not split.test:
        raise ConfigError(
            "a fusion without test scans",
            where="split.test_fraction",
            expected="scans that the fusion is not fitted on",
            action="Set split.test_fraction=0.2, or leave fusion out",
        )
    where = cohort.path or "fusion"
    method = config.fusion.method
    learned_from = cohort.subset(split.development if method == "mean" else split.validated)
    require_patients(learned_from.truth, learned_from.patients, cohort.labels, method, where)
    there = sorted({name for case in cohort.cases for name in case.columns})
    development = cohort.subset(split.development)
    rows = [str(case) for case in development.cases]
    for name in config.fusion.columns:
        if name not in there:
            raise CohortError(
                f"fusion.columns has {name!r}, which the table does not",
                where=where,
                expected=f"one of {', '.join(there)}" if there else "a column other than scan, patient and label",
            )
        texts = [case.columns.get(name, "") for case in development.cases]
        learn_column(name, texts, development.patients, rows, where)
        if warn:
            for warning in leaking_columns({name: texts}, development.truth, development.patients):
                log.warning("fusion: %s", warning)


def fuse_run(run_data: RunData, config: FinetuneConfig, trained: TrainedEnsemble) -> Fusion | None:
    """The fusion for the ensemble that was kept; None if the config has none.

    The network's outputs are out-of-fold. With a single split only the validation scans have one, so a stacked
    combination is fitted on these alone; combinations without the network are fitted on all development scans.

    Raises:
        CohortError: as :func:`check_fusion`.
    """
    if config.fusion is None:
        return None
    development = list(run_data.split.development)
    cohort = run_data.prepared.cohort
    outputs = np.full((len(cohort), len(cohort.labels)), np.nan)
    outputs[list(run_data.split.validated)] = trained.validation
    scans = DevelopmentScans(
        _scans(run_data, development, outputs[development]),
        cohort.truth[development],
        [cohort.patients[i] for i in development],
        cohort.labels,
        FEATURE_NAMES,
        rows=[str(cohort.cases[i]) for i in development],
        where=cohort.path or "fusion",
    )
    fusion = fit_fusion(scans, config.fusion, balanced=config.training.balance != "none", seed=config.seed)
    whole = fusion.combinations[0]
    log.info(
        "fusion of %s, %s: fitted on %d scans of %d patients, C %g",
        ", ".join(config.fusion.use),
        config.fusion.method,
        whole.n_scans,
        whole.n_patients,
        whole.inverse_penalty,
    )
    return fusion


def _scans(run_data: RunData, rows: list[int], probabilities: NDArray[np.float64]) -> FusionScans:
    cases = [run_data.prepared.cohort.cases[row] for row in rows]
    features = run_data.prepared.handcrafted[rows]
    return FusionScans(probabilities, features, [case.within for case in cases], [case.columns for case in cases])
