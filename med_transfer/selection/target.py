"""The training folds of a cohort and their features; the test scans are kept apart and shown to no network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts import (
    Cohort,
    Images,
    Split,
    check_leakage,
    require_columns,
    split_cohort,
    without_prediction,
)
from med_transfer.errors import NothingDone, ScanError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.predictions.patient_folds import patient_folds
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.progress import Progress, named
from med_transfer.selection.candidates import Network
from med_transfer.selection.features import FeatureLibrary, StageFeatures

log = logging.getLogger(__name__)

_WATCHED = 8  # scans that are compared with what the normalisation layers remember: more change nothing

Groups = dict[PreprocessingConfig, list[Network]]


@dataclass(frozen=True)
class Target:
    """Scans to choose by.

    Attributes:
        cohort: the training folds, each scan usable.
        folds: a fold number a scan; by patient.
        hashes: content hashes of every case.
        features: network's key to the features of every scan, in the cohort's order.
        failed: scan to the reason why it was not used.
    """

    cohort: Cohort
    folds: NDArray[np.intp]
    hashes: tuple[Images, ...]
    features: dict[str, tuple[StageFeatures, ...]]
    failed: dict[str, str]


@dataclass
class _Gathered:
    """By position in the cohort's table."""

    hashes: dict[int, Images] = field(default_factory=dict)
    features: dict[str, dict[int, StageFeatures]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


def read_target(cohort: Cohort, config: FinetuneConfig, groups: Groups, folder: Path, progress: Progress) -> Target:
    """Read the scans, divide them as ``finetune`` would, and work out the features of the training folds.

    ``finetune`` divides the scans that can be used. So a scan that lands in the test set is read too, to see whether
    it can be, unless the table itself says that it is for testing.

    Raises:
        CohortError: the cohort cannot be split, or a patient or identical scan is on both sides.
        NothingDone: no scan of the training folds can be used.
    """
    for preprocessing in groups:
        require_columns(cohort, preprocessing.columns)
    development = set(split_cohort(cohort, config.split).development)
    apart = {number for number, case in enumerate(cohort.cases) if case.split == "test"}
    found = _Gathered()
    to_read = [number for number in range(len(cohort)) if number not in apart]
    for number, (preprocessing, networks) in enumerate(groups.items(), start=1):
        stage = "features" if len(groups) == 1 else f"features, input {number} of {len(groups)}"
        wanted = to_read if number == 1 else sorted(development - set(found.failed))
        _gather(
            found, cohort, wanted, development, FeatureLibrary(folder, preprocessing), networks, named(progress, stage)
        )
    usable = [number for number in range(len(cohort)) if number not in found.failed]
    if not set(usable) - apart:
        raise NothingDone(
            f"none of {len(found.failed)} scans can be used",
            where=cohort.path or "",
            expected="at least one",
            action=f"The first reason: {next(iter(found.failed.values()))}",
        )
    split = _split_usable(cohort, usable, found, config)
    development = {usable[position] for position in split.development}
    for preprocessing, networks in groups.items():  # nothing new, unless a scan that failed moved the folds
        late = sorted(n for n in development if any(n not in found.features[network.key] for network in networks))
        _gather(found, cohort, late, development, FeatureLibrary(folder, preprocessing), networks, progress)
    return _assemble(cohort, usable, split, found, config)


def _gather(
    found: _Gathered,
    cohort: Cohort,
    wanted: Sequence[int],
    development: set[int],
    library: FeatureLibrary,
    networks: Sequence[Network],
    progress: Progress,
) -> None:
    watched = set(sorted(development)[: min(_WATCHED, len(development) // 2)])
    for network in networks:
        found.features.setdefault(network.key, {})
    for done, number in enumerate(wanted, start=1):
        case = cohort.cases[number]
        try:
            shown = networks if number in development else ()
            identity, features = library.look_up(case, shown, watch=number in watched)
            found.hashes[number] = identity.content_hashes
            for network, one in zip(shown, features, strict=True):
                found.features[network.key][number] = one
        except ScanError as error:
            log.warning("left out: %s", error)
            found.failed[number] = without_prediction(case, error).reason
        progress("features", done, len(wanted))


def _split_usable(cohort: Cohort, usable: Sequence[int], found: _Gathered, config: FinetuneConfig) -> Split:
    remaining = cohort.subset(usable)
    split = split_cohort(remaining, config.split)
    check_leakage(remaining, [found.hashes.get(number, ()) for number in usable], split)
    return split


def _assemble(cohort: Cohort, usable: Sequence[int], split: Split, found: _Gathered, config: FinetuneConfig) -> Target:
    positions = [position for position in split.development if usable[position] not in found.failed]
    chosen = [usable[position] for position in positions]
    subset = cohort.subset(chosen)
    return Target(
        subset,
        _folds(subset, split, positions, config),
        tuple(found.hashes[number] for number in chosen),
        {key: tuple(features[number] for number in chosen) for key, features in found.features.items()},
        {cohort.cases[number].scan: reason for number, reason in found.failed.items()},
    )


def _folds(cohort: Cohort, split: Split, positions: Sequence[int], config: FinetuneConfig) -> NDArray[np.intp]:
    """Those of the run itself; where it has a single validation part, as many as it would have."""
    if split.n_fold_models > 1:
        member = {case: number for number, part in enumerate(split.validation) for case in part}
        return np.array([member[position] for position in positions], dtype=np.intp)
    n_folds = min(config.split.folds, _fewest_patients(cohort))
    return patient_folds(cohort.truth, cohort.patients, max(2, n_folds), config.split.seed)


def _fewest_patients(cohort: Cohort) -> int:
    return min(patients for _, patients in cohort.counts().values())
