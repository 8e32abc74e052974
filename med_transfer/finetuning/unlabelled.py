"""Unlabelled scans of the target: prepared like the labelled ones, without patients that the run is evaluated on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from med_transfer.cohorts import (
    Cohort,
    PreparedCohort,
    SourceLock,
    Split,
    prepare_cohort,
    require_columns,
    unlabelled_cohort,
)
from med_transfer.cohorts.hashed_names import old_hash
from med_transfer.cohorts.lock import shared
from med_transfer.errors import CohortError, ConfigError, PatientLeak, UsageError
from med_transfer.errors.sentence import few
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.region_choice import require_regions
from med_transfer.finetuning.transfer_config import MappingConfig
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.progress import Progress, named

log = logging.getLogger(__name__)

UNLABELLED_LOCK_FILE = "unlabelled.lock.json"
MIN_UNLABELLED_SCANS = 2  # scans: a single one has no variance


def check_unlabelled(path: Path, cohort: Cohort, split: Split, preprocessing: PreprocessingConfig) -> None:
    """Refuse, before a scan is read, unlabelled scans of which the path alone shows that none can be used.

    A table is read; of a folder it is known that it names neither regions nor further channels.

    Raises:
        CohortError: the table cannot be read, names no scan for a channel, or has labelled patients only.
        ConfigError: the network looks at regions of interest, and none is given.
        PatientLeak: a test patient is in the table.
    """
    if path.suffix.lower() == ".csv":
        unlabelled = unlabelled_cohort(path)
        require_columns(unlabelled, preprocessing.columns)
        require_regions(unlabelled, preprocessing.region)
        patients = [cohort.patients[case] for case in split.test]
        no_images = [()] * len(unlabelled)
        _refuse_test_scans(shared(unlabelled, no_images, patients, ()), unlabelled, path)
        _require_enough(
            len(unlabelled) - len(shared(unlabelled, no_images, cohort.patients, ())), len(unlabelled), path
        )
    elif preprocessing.region == "roi" or len(preprocessing.columns) > 1:
        needed = "a region of interest" if preprocessing.region == "roi" else "several scans of each case"
        raise ConfigError(
            f"a folder, and the network's input is made of {needed}",
            where=path,
            expected="a cohort table of the unlabelled scans, with the same columns as the labelled ones'",
            action="Write such a table (no labels are needed), or choose input.region=whole or foreground",
        )


def check_coral(mapping: MappingConfig | None, split: Split) -> None:
    """Refuse CORAL without test scans: out of fold, its figures would be of features that the bundle does not compute.

    Raises:
        ConfigError: no scan is kept for the test.
    """
    if mapping is not None and mapping.method == "coral" and not split.test:
        raise ConfigError(
            "coral without test scans",
            where="transfer.mapping",
            expected="scans of the site that the network is for: all others are measured by recoloured features, which "
            "a network in use does not compute",
            action="Mark scans of that site split=test, or keep some apart by split.test_fraction=0.2",
        )


def prepare_unlabelled(
    path: Path,
    labelled: PreparedCohort,
    split: Split,
    preprocessing: PreprocessingConfig,
    cache: Path,
    progress: Progress,
) -> PreparedCohort:
    """Read every scan once, with the preprocessing of the labelled ones.

    A scan of a test patient, or a copy of a test image, is refused: a network that has used its test scans, even
    without labels, is evaluated too optimistically. A scan of a development patient is left out and counted: validation
    scans must not be used either, and training scans are there already. Patients are compared by name (from the cohort
    table, or the DICOM header in a folder) if both sides have one, images always by content.

    Args:
        path: see :func:`unlabelled_cohort`.
        labelled: the run's cohort.
        split: its parts.
        preprocessing: of the labelled scans.
        cache: folder of the prepared tensors.
        progress: reports progress.

    Raises:
        PatientLeak: a test patient or a test image is among them.
        CohortError: the table cannot be read, or fewer than two scans are left.
        ScanNotFound: the path holds no scan.
        NothingDone: no scan can be used.
    """
    prepared = prepare_cohort(
        unlabelled_cohort(path),
        Preprocessing(preprocessing),
        cache,
        margin_voxels(preprocessing.shape),
        named(progress, "reading unlabelled scans"),
    )
    _refuse_test_scans(_overlapping_scans(prepared, labelled, split.test), prepared.cohort, path)
    development = set(_overlapping_scans(prepared, labelled, split.development))
    if development:
        log.info("left out %d unlabelled scans: they or their patients have labels in this run", len(development))
    remaining = [index for index in range(len(prepared.scans)) if index not in development]
    _require_enough(len(remaining), len(prepared.scans), path)
    return prepared.subset(remaining)


def lock_unlabelled(unlabelled: PreparedCohort, path: Path) -> None:
    """Write the lock of the unlabelled scans, or check that the one of an interrupted run is the same.

    Raises:
        UsageError: the folder holds a run with other unlabelled scans.
    """
    lock = SourceLock.of(unlabelled.patient_hashes, unlabelled.images)
    before = SourceLock.of({old_hash(patient) for patient in unlabelled.cohort.patients if patient}, unlabelled.images)
    if path.exists() and SourceLock.read(path).source_hash not in (lock.source_hash, before.source_hash):
        raise UsageError(
            "the folder holds a run with other unlabelled scans",
            where=path,
            expected="a new folder, or the same scans",
            action="Choose another -o",
        )
    lock.write(path)


def _overlapping_scans(prepared: PreparedCohort, labelled: PreparedCohort, part: Iterable[int]) -> tuple[int, ...]:
    """Positions of the unlabelled scans whose patient or image is in the given part of the labelled ones."""
    labelled_part = labelled.subset(part)
    return shared(prepared.cohort, prepared.content_hashes, labelled_part.cohort.patients, labelled_part.images)


def _refuse_test_scans(test: Sequence[int], unlabelled: Cohort, path: Path) -> None:
    """Raise PatientLeak if there are unlabelled scans, by position, of test patients."""
    if test:
        leaked = few([str(unlabelled.cases[i]) for i in test])
        raise PatientLeak(
            f"{len(test)} unlabelled scans are test scans of this run or of their patients: {leaked}",
            where=path,
            expected="patients that are not in the test part",
            action="Take those scans out, or mark them split=test",
        )


def _require_enough(n_left: int, n_scans: int, path: Path) -> None:
    """Raise CohortError if so few of ``n_scans`` scans are left."""
    if n_left < MIN_UNLABELLED_SCANS:
        raise CohortError(
            f"{n_left} unlabelled scans are left of {n_scans}",
            where=path,
            expected=f"at least {MIN_UNLABELLED_SCANS} of patients who are not in the cohort",
        )
