"""Data setup of a run: preprocessing, prepared scans, split, leakage checks, and the cohort lock."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.backbones import BackboneSpec, weights_file
from med_transfer.bundle import RECORD_FILE, read_record
from med_transfer.bundle.provenance import source_provenance
from med_transfer.cohorts import (
    Cohort,
    CohortLock,
    PreparedCohort,
    Split,
    check_leakage,
    prepare_cohort,
    recognise,
    seen_before,
    split_cohort,
    warn_of_other_spellings,
)
from med_transfer.cohorts.near_duplicates import near_duplicates
from med_transfer.errors import BackboneError, ConfigError, PatientLeak, UsageError
from med_transfer.errors.numbers import counted
from med_transfer.errors.sentence import few
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.made_from import handcrafted_hash, require_made_from, scans_hash
from med_transfer.finetuning.unlabelled import UNLABELLED_LOCK_FILE, lock_unlabelled, prepare_unlabelled
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.progress import Progress

log = logging.getLogger(__name__)

LOCK_FILE = "cohort.lock.json"
MAX_NAMED_PAIRS = 10  # pairs named in a warning
_MAX_COMPARED_PATIENTS = 30  # patients, evenly spaced in the table, that are looked up in a lock: each takes 30 ms


@dataclass(frozen=True)
class RunData:
    """A run's data; the same for the transferred network and its from-scratch baseline.

    Attributes:
        unlabelled: scans for alignment or mapping, which the from-scratch baseline does not use.
        altered_copies: pairs of rows of the table, see :func:`near_duplicates`.
        network_axes: orientation of the backbone's entry, which the input's may replace.
    """

    preprocessing: PreprocessingConfig
    prepared: PreparedCohort
    split: Split
    lock: CohortLock
    unlabelled: PreparedCohort | None = None
    altered_copies: tuple[tuple[int, int], ...] = ()
    network_axes: str = "SPL"


def prepare_run_data(
    cohort: Cohort, config: FinetuneConfig, spec: BackboneSpec, out: Path, progress: Progress
) -> RunData:
    """Read every scan once, split by patient, check for leakage, and write ``cohort.lock.json``.

    Raises:
        CohortError: the cohort cannot be split.
        PatientLeak: a patient or identical scan is on both sides of the split, or in the test part and also among the
            unlabelled scans or in the source's training data.
        UsageError: the folder holds a run on another cohort, or on other images of it.
        NothingDone: no scan can be used.
        ConfigError: a channel of every scan is a single value.
    """
    _refuse_other_cohort(cohort, out / LOCK_FILE)
    preprocessing = resolve_preprocessing(spec, config)
    margin = margin_voxels(preprocessing.shape)
    prepared = prepare_cohort(cohort, Preprocessing(preprocessing), out / "prepared", margin, progress)
    _require_contrast(prepared, preprocessing)
    split = split_cohort(prepared.cohort, config.split)
    check_leakage(prepared.cohort, prepared.content_hashes, split)
    copies = _altered_copies(prepared, split)
    lock = CohortLock.of(prepared.cohort, prepared.content_hashes, split, config.split)
    unlabelled = None
    if config.transfer.unlabelled:
        cache = out / "prepared"
        unlabelled = prepare_unlabelled(config.transfer.unlabelled, prepared, split, preprocessing, cache, progress)
    run_data = RunData(preprocessing, prepared, split, lock, unlabelled, copies, spec.input.orientation)
    _check_source_leakage(run_data, source_weights(config))
    started = _holds_same_cohort(run_data, config, out / LOCK_FILE)
    require_made_from(out, "scans", scans_hash([prepared, unlabelled]), started=started)
    require_made_from(out, "handcrafted", handcrafted_hash(prepared), started=started)
    lock.write(out / LOCK_FILE)
    if unlabelled:
        lock_unlabelled(unlabelled, out / UNLABELLED_LOCK_FILE)
    return run_data


def _altered_copies(prepared: PreparedCohort, split: Split) -> tuple[tuple[int, int], ...]:
    """Rows of scans that look like altered copies across the split, with a warning."""
    cases, pairs = prepared.cohort.cases, near_duplicates(prepared.tensors, split)
    if pairs:
        together = [f"{cases[first]} with {cases[second]}" for first, second in pairs]
        log.warning(
            "scans of two patients on different sides of the split look like altered copies (another reconstruction, "
            "one slice fewer): %s. If they are of one patient, name that patient in both rows; otherwise the figures "
            "are too optimistic",
            few(together, MAX_NAMED_PAIRS),
        )
    return tuple((cases[first].row, cases[second].row) for first, second in pairs)


def _require_contrast(prepared: PreparedCohort, preprocessing: PreprocessingConfig) -> None:
    """Refuse a channel that is a single value in every scan, and warn of scans whose whole input is one.

    Raises:
        ConfigError: a network would be trained on nothing, for example because the window lies beyond the scans'
            values, or because ``output_range`` is too narrow for float16.
    """
    empty = np.array([_single_valued(tensor) for tensor in prepared.tensors])  # [scan, channel]
    for number in np.flatnonzero(empty.all(axis=0)):
        channel = preprocessing.by_channel[number]
        values = f"window {list(channel.window_hu)}" if channel.normalisation == "window" else channel.normalisation
        raise ConfigError(
            f"channel {number + 1} ({preprocessing.column_of_channel[number]}, {values}) is a single value in each of "
            f"{counted(len(empty), 'scan')}: nothing is left of the images",
            where="input",
            expected="a window within the scans' values, and an output_range that keeps their differences",
            action="med-transfer preview shows what the network sees",
        )
    if blank := [str(prepared.cohort.cases[row]) for row in np.flatnonzero(empty.all(axis=1))]:
        log.warning("the network's input is a single value in %d of %d scans: %s", len(blank), len(empty), few(blank))


def _single_valued(tensor: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Whether each channel of [channel, depth, height, width] has the same value everywhere, [channel]."""
    channels = tensor.reshape(len(tensor), -1)
    return (channels == channels[:, :1]).all(axis=1)


def resolve_preprocessing(spec: BackboneSpec, config: FinetuneConfig) -> PreprocessingConfig:
    """The backbone's own preprocessing with the config's overrides.

    Raises:
        ConfigError: an invalid value, or an input smaller than the backbone supports.
    """
    preprocessing = config.input.completed(spec.input.preprocessing)
    if any(size < least for size, least in zip(preprocessing.shape, spec.input.minimum_shape, strict=True)):
        raise ConfigError(
            f"shape {list(preprocessing.shape)}",
            where="input.shape",
            expected=f"at least {list(spec.input.minimum_shape)} for {spec.name}",
        )
    return preprocessing


def source_weights(config: FinetuneConfig) -> Path | None:
    """The file that the transfer starts from; None from scratch, or if an installed package provides the weights."""
    if config.transfer.strategy.name == "scratch":
        return None
    return weights_file(config.backbone.name, config.backbone.weights)


def refuse_adapted_source(weights: Path | None) -> None:
    """Refuse a bundle with adapters: it holds no plain encoder, and without adapters it equals its own source.

    Raises:
        BackboneError: the source is a bundle with adapters.
    """
    if weights is None or not (weights / RECORD_FILE).exists():
        return
    transfer = read_record(weights).transfer
    if transfer is not None and transfer.adapter_reduction:
        raise BackboneError(
            "the source has adapters, which cannot be transferred",
            where=weights,
            expected="a bundle of another strategy, for example lora",
            action="Give the weights that its adapters were added to, or train it again",
        )


def _holds_same_cohort(run_data: RunData, config: FinetuneConfig, path: Path) -> bool:
    """Whether an interrupted run left its lock, perhaps one from before hashes were salted.

    Raises:
        UsageError: the lock is of another cohort.
    """
    if not path.exists():
        return False
    found, prepared = CohortLock.read(path).cohort_hash, run_data.prepared
    if found != run_data.lock.cohort_hash:
        before = CohortLock.of(prepared.cohort, prepared.content_hashes, run_data.split, config.split, as_before=True)
        if found != before.cohort_hash:
            raise _other_cohort_error(path)
    return True


def _refuse_other_cohort(cohort: Cohort, path: Path) -> None:
    """Refuse, before a scan is read, a cohort with classes other than the lock's, or with none of its patients.

    The full comparison follows when the scans have been read, see :func:`_holds_same_cohort`.
    """
    if not path.exists():
        return
    lock, patients = CohortLock.read(path), sorted(set(cohort.patients))
    compared = patients[:: -(-len(patients) // _MAX_COMPARED_PATIENTS)]
    if lock.classes != cohort.labels.names or not recognise(compared, [case.patient_hash for case in lock.cases]):
        raise _other_cohort_error(path)


def _other_cohort_error(path: Path) -> UsageError:
    return UsageError(
        "the folder holds a run on another cohort",
        where=path,
        expected="a new folder, or the same cohort",
        action="Choose another -o",
    )


def _check_source_leakage(run_data: RunData, weights: Path | None) -> None:
    """Refuse evaluated patients that the source was trained on, as its bundle or encoder file records them."""
    source = source_provenance(weights)
    if source is None:
        return
    test = run_data.prepared.subset(run_data.split.evaluated)
    warn_of_other_spellings(test.cohort, source.patient_hashes)
    seen = seen_before(test.cohort, test.content_hashes, source.patient_hashes, source.content_hashes)
    if seen:
        named = few([str(test.cohort.cases[i]) for i in seen])
        if not run_data.split.test:
            raise PatientLeak(
                f"the source was trained on {len(seen)} of these scans or their patients, and there is no test part: "
                f"{named}",
                where=weights,
                expected="a source that never saw the patients that it is measured on, which with "
                "split.test_fraction=0 are all",
                action="Choose another source, or keep apart those that it never saw: split=test in their rows, or the "
                "split.test_fraction that it was made by",
            )
        raise PatientLeak(
            f"the source was trained on {len(seen)} test scans or their patients: {named}",
            where=weights,
            expected="test patients that the source never saw",
            action="Mark those rows split=train, or choose another source",
        )
