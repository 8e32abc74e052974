"""The training folds of a cohort and their features; test scans are shown to no network."""

from __future__ import annotations

import logging
from collections import Counter
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
from med_transfer.metrics.cross_validation import fewest_patients
from med_transfer.predictions.patient_folds import patient_folds
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.progress import Progress, remark
from med_transfer.scans.isolation import confined
from med_transfer.selection.candidates import Network
from med_transfer.selection.features import FeatureLibrary, StageFeatures

log = logging.getLogger(__name__)

_N_COMPARED = 8  # scans whose statistics are compared with the stored BatchNorm statistics; more change nothing

Groups = dict[PreprocessingConfig, list[Network]]


@dataclass(frozen=True)
class Target:
    """The scans that backbones are compared on, and their features.

    Attributes:
        cohort: the training folds, each scan usable.
        folds: a fold number per scan, by patient.
        hashes: content hashes of every case.
        features: network's key to the features of every scan, in the cohort's order.
        failed: scan, or row if several rows share the scan, to the reason why it was not used.
        seed: of random measures: bootstrap samples, clusters, permutations.
    """

    cohort: Cohort
    folds: NDArray[np.intp]
    hashes: tuple[Images, ...]
    features: dict[str, tuple[StageFeatures, ...]]
    failed: dict[str, str]
    seed: int = 0

    @property
    def n_patients(self) -> int:
        """Number of patients in the training folds."""
        return len(set(self.cohort.patients))


@dataclass
class _Readings:
    """Results of reading the scans of a cohort so far, by position in its table.

    Attributes:
        folder: of the cache.
        hashes: content hashes of each scan.
        features: network's key to the features of each scan.
        failed: the reason why a scan cannot be used.
    """

    cohort: Cohort
    folder: Path
    progress: Progress
    hashes: dict[int, Images] = field(default_factory=dict)
    features: dict[str, dict[int, StageFeatures]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def add(
        self,
        wanted: Sequence[int],
        development: set[int],
        preprocessing: PreprocessingConfig,
        networks: Sequence[Network],
        stage: str = "features",
    ) -> None:
        """Read the wanted scans; only those of the development part pass through the networks."""
        library = FeatureLibrary(self.folder, preprocessing)
        compared = set(sorted(development)[: min(_N_COMPARED, len(development) // 2)])
        for network in networks:
            self.features.setdefault(network.key, {})
        for done, position in enumerate(wanted, start=1):
            case = self.cohort.cases[position]
            try:
                shown = networks if position in development else ()
                with confined(case.path):
                    identity, of_networks = library.look_up(case, shown, compare=position in compared)
                self.hashes[position] = identity.content_hashes
                for network, features in zip(shown, of_networks, strict=True):
                    self.features[network.key][position] = features
            except ScanError as error:
                remark(log, "left out: %s", error, kind=error.problem)
                self.failed[position] = without_prediction(case, error).reason
            self.progress(stage, done, len(wanted))


def read_target(cohort: Cohort, config: FinetuneConfig, groups: Groups, folder: Path, progress: Progress) -> Target:
    """Read the scans, split them as ``finetune`` would, and compute the features of the training folds.

    ``finetune`` splits the usable scans. So scans of the test part are read too, to see whether they are usable, unless
    the table itself marks them for testing.

    Raises:
        CohortError: the cohort cannot be split, or a patient or identical scan is on both sides.
        NothingDone: no scan of the training folds can be used.
    """
    for preprocessing in groups:
        require_columns(cohort, preprocessing.columns)
    development = set(split_cohort(cohort, config.split).development)
    apart = {number for number, case in enumerate(cohort.cases) if case.split == "test"}
    readings = _Readings(cohort, folder, progress)
    to_read = [number for number in range(len(cohort)) if number not in apart]
    for number, (preprocessing, networks) in enumerate(groups.items(), start=1):
        stage = "features" if len(groups) == 1 else f"features, input {number} of {len(groups)}"
        wanted = to_read if number == 1 else sorted(development - set(readings.failed))
        readings.add(wanted, development, preprocessing, networks, stage)
    usable = [number for number in range(len(cohort)) if number not in readings.failed]
    if not set(usable) - apart:
        raise NothingDone.of(len(readings.failed), cohort.path or "", next(iter(readings.failed.values())))
    split = _split_usable(usable, readings, config)
    development = {usable[position] for position in split.development}
    for preprocessing, networks in groups.items():  # nothing to do, unless failed scans have changed the split
        late = sorted(n for n in development if any(n not in readings.features[network.key] for network in networks))
        readings.add(late, development, preprocessing, networks)
    return _assemble(usable, split, readings, config)


def _split_usable(usable: Sequence[int], readings: _Readings, config: FinetuneConfig) -> Split:
    remaining = readings.cohort.subset(usable)
    split = split_cohort(remaining, config.split)
    check_leakage(remaining, [readings.hashes.get(number, ()) for number in usable], split)
    return split


def _assemble(usable: Sequence[int], split: Split, readings: _Readings, config: FinetuneConfig) -> Target:
    positions = [position for position in split.development if usable[position] not in readings.failed]
    chosen = [usable[position] for position in positions]
    subset = readings.cohort.subset(chosen)
    return Target(
        subset,
        folds_of_run(subset, split, positions, config),
        tuple(readings.hashes[number] for number in chosen),
        {key: tuple(features[number] for number in chosen) for key, features in readings.features.items()},
        _failures_by_name(readings.cohort, readings.failed),
        config.seed,
    )


def _failures_by_name(cohort: Cohort, failed: dict[int, str]) -> dict[str, str]:
    """Failures by scan, or by row if several rows share a scan: series of one folder, or regions of one scan."""
    times, cases = Counter(case.scan for case in cohort.cases), cohort.cases
    return {
        cases[number].scan if times[cases[number].scan] == 1 else str(cases[number]): reason
        for number, reason in failed.items()
    }


def folds_of_run(cohort: Cohort, split: Split, positions: Sequence[int], config: FinetuneConfig) -> NDArray[np.intp]:
    """A fold number for each scan: the run's own folds, or as many as it could have if it has a single validation part.

    Args:
        cohort: scans of the training folds.
        split: of a cohort that contains them.
        positions: of the scans in that cohort.
        config: of the run.
    """
    if split.n_fold_models > 1:
        fold_of = split.fold_of
        return np.array([fold_of[position] for position in positions], dtype=np.intp)
    n_folds = min(config.split.folds, fewest_patients(cohort.truth, cohort.patients))
    return patient_folds(cohort.truth, cohort.patients, max(2, n_folds), config.split.seed)
