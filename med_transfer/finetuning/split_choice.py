"""The choice of region and split, if the config leaves them to the cohort table."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from med_transfer.cohorts import Cohort, CohortLock, split_cohort
from med_transfer.cohorts.splits import FEW_PATIENTS, TEST_FRACTION
from med_transfer.errors.numbers import counted
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import LOCK_FILE
from med_transfer.finetuning.region_choice import choose_region

Config = TypeVar("Config", bound=FinetuneConfig)


def choose_by_table(config: Config, cohort: Cohort, out: Path | None = None) -> Config:
    """Resolve region and split from the table, as every job does first; idempotent.

    Raises:
        ConfigError: see :func:`choose_region`.
        CohortError: see :func:`choose_split`.
    """
    return choose_split(choose_region(config, cohort), cohort, out)


def choose_split(config: Config, cohort: Cohort, out: Path | None = None) -> Config:
    """Resolve ``split``: some patients kept apart for a test, or cross-validation of all patients.

    If something was trained in ``out``, its split is kept. With a fusion or a search, test patients are kept apart even
    in a small cohort, since all others are used up: the fusion is fitted on them, the search tries many configs on
    them.

    Raises:
        CohortError: the lock in ``out`` is damaged.
    """
    split = config.split
    if split.test_fraction is None and split.repeats is None:
        decided: dict[str, float | int | None] = {}
        if out is not None and (out / LOCK_FILE).exists():
            there = CohortLock.read(out / LOCK_FILE).split
            decided = {"test_fraction": there.test_fraction, "repeats": there.repeats}
        elif config.fusion is not None or config.searches:
            decided = {"test_fraction": TEST_FRACTION}
        split = split.model_copy(update=decided)
    split = split.resolved(cohort, cheap=not trains_networks(config))
    return config.model_copy(update={"split": split})


def trains_networks(config: FinetuneConfig) -> bool:
    """Whether each fold costs the training of a network: of the classifier, or of its encoder in pretraining."""
    return config.transfer.strategy.trains or config.backbone.pretrain is not None


def split_sentence(config: FinetuneConfig, cohort: Cohort) -> str:
    """The split in words: which patients the run is evaluated on, and why.

    Raises:
        CohortError, TooFewPatients: as :func:`split_cohort`.
    """
    split, n_patients = split_cohort(cohort, config.split), len(set(cohort.patients))
    few = f"{counted(n_patients, 'patient')}, {'under' if n_patients < FEW_PATIENTS else 'not under'} {FEW_PATIENTS}"
    if any(case.split for case in cohort.cases):
        few += "; the table's split column decides"
    if split.test:
        n_test = len({cohort.patients[case] for case in split.test})
        held_out = f"{counted(n_test, 'patient')} held out for the test"
        return f"split: {held_out}, split.test_fraction {_shown(config)} ({few})"
    folds, repeats = split.n_fold_models, len(split.repeats)
    cost = f"each repeat trains {folds} networks" if trains_networks(config) else "no network is trained"
    times = f"drawn {repeats} times, the mean is reported" if repeats > 1 else "drawn once"
    parts = f"in {folds} folds {times} (split.repeats; {cost})" if folds > 1 else "in one validation part"
    return (
        f"split: no patients are held out for a test, split.test_fraction 0 ({few}): development evidence, "
        f"each patient predicted by networks that were not trained on it, {parts}"
    )


def _shown(config: FinetuneConfig) -> str:
    return f"{config.split.test_fraction:g}"
