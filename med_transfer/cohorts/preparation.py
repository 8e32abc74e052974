"""Prepare a cohort: read each scan once, and compute its network input, content hash and handcrafted features.

Each scan's result is cached in a file of its own, so that an interrupted run resumes where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from med_transfer.cohorts.acquisition import Facts, acquisition_facts
from med_transfer.cohorts.array_cache import ArrayCache, cache_key
from med_transfer.cohorts.channels import require_columns
from med_transfer.cohorts.handcrafted import FEATURE_NAMES, features
from med_transfer.cohorts.hashed_names import hash_names, salt_of
from med_transfer.cohorts.input_facts import input_facts, sample_hash
from med_transfer.cohorts.kept_scans import take_or_read
from med_transfer.cohorts.splits import Images, pairs_text, shared_by
from med_transfer.cohorts.table import Case, Cohort
from med_transfer.errors import GeometryRejected, InputRejected, NothingDone, ScanError
from med_transfer.errors.sentence import Sentence, joined
from med_transfer.predictions.record import Prediction
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig, Scans
from med_transfer.progress import Progress, remark, silent
from med_transfer.scans import Region, Series, Volume, read_mask, region_of_mask
from med_transfer.scans.isolation import confined, isolated
from med_transfer.scans.stamps import stamps, stamps_when_found

log = logging.getLogger(__name__)

_CACHE_FORMAT = 8  # cached scans of an older format lack newer fields or checks, and are prepared again

Margin = tuple[int, int, int]


@dataclass(frozen=True)
class PreparedScan:
    """One case, ready for the network.

    Attributes:
        tensor: float16 [channel, depth, height, width], including the margin that training asked for.
        content_hashes: SHA-256 of the voxels of each scan of the case, independent of the file format.
        handcrafted: the features of ``FEATURE_NAMES`` for the first scan, NaN where undefined.
        spacings_mm: voxel spacing of each original scan, along column, row, slice.
        repair: description of repairs; empty if there were none.
        acquisition: acquisition facts of the first scan, see
            :func:`~med_transfer.cohorts.acquisition.acquisition_facts`.
        voxel_mm: voxel size of the tensor, along depth, height, width; differs by scan where a region is fitted to it.
        input_facts: facts of the first scan for the input envelope, see :mod:`med_transfer.cohorts.input_facts`.
        sample_hash: hash of the first scan, by which prediction recognises a training scan.
    """

    tensor: NDArray[np.float16]
    content_hashes: Images
    handcrafted: NDArray[np.float64]
    spacings_mm: tuple[tuple[float, float, float], ...]
    study_uid: str
    series_uid: str
    repair: str
    acquisition: Facts = field(default_factory=dict, hash=False)
    voxel_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    input_facts: Facts = field(default_factory=dict, hash=False)
    sample_hash: str = ""


_ARRAYS = ("tensor", "handcrafted")
_RECORDED = tuple(part.name for part in fields(PreparedScan) if part.name not in _ARRAYS)


def read_scans(case: Case, config: PreprocessingConfig, series: Series | None = None) -> dict[str, Volume]:
    """Read the scans of a case, keyed by table column, ``scan`` first; columns without a scan are left out.

    Scans are read in an isolated process with limits (:mod:`med_transfer.scans.isolation`), unless they are still in
    memory (:mod:`med_transfer.cohorts.kept_scans`).

    Args:
        case: the case to read.
        config: its ``columns`` say which scans to read; ``max_gap_mm`` how to treat uneven slices.
        series: the series of column ``scan``, if it was found already.

    Raises:
        ScanError: a scan named by the table cannot be used; the message says which and why.
    """
    scans = {column: scan for column in config.columns if (scan := case.scan_in(column))}
    sources = {column: path for column, (path, _) in scans.items()} | ({"scan": series} if series else {})
    return {
        column: take_or_read(sources[column], series_uid, config.max_gap_mm, scans[column][0])
        for column, (_, series_uid) in scans.items()
    }


def region_of_case(case: Case, volume: Volume | None = None) -> tuple[Region | None, Volume | None]:
    """Return a case's region of interest and its mask, on the grid of ``volume`` if given; each None if absent.

    Raises:
        ScanError: the mask cannot be used.
    """
    if case.mask is not None:
        mask = isolated(read_mask, case.mask, onto=volume, name=case.mask_name, where=case.mask)
        return region_of_mask(mask), mask
    if case.roi_centre_mm is not None:
        size = case.roi_size_mm or 0.0
        return Region(case.roi_centre_mm, (size, size, size)), None
    return None, None


@dataclass(frozen=True)
class NetworkInput:
    """Everything that a prediction for one case needs; can be passed between processes.

    Attributes:
        image: float16 [channel, depth, height, width].
        path, study_uid, series_uid: of the first scan.
        notes: remarks on the scans.
        within: where ``handcrafted`` was measured: mask, roi or whole.
        handcrafted: the features of ``FEATURE_NAMES`` for the first scan; NaN if not requested.
        facts: facts of the first scan, checked against the bundle's input envelope.
        sample_hash: hash of the first scan, by which the bundle recognises a scan it was trained on.
    """

    image: NDArray[np.float16]
    path: str
    study_uid: str
    series_uid: str
    notes: str
    within: Literal["mask", "roi", "whole"]
    handcrafted: NDArray[np.float64]
    facts: Facts = field(default_factory=dict, hash=False)
    sample_hash: str = ""


def network_input(
    scans: Scans, preprocessing: Preprocessing, region: Region | None, mask: Volume | None, *, handcrafted: bool
) -> NetworkInput:
    """Return the network input for the scans of a case. Raises ScanError.

    Args:
        scans: scans by table column.
        preprocessing: how the image is made.
        region: region of interest; None takes that of the mask, if any.
        mask: mask of the finding, for handcrafted features.
        handcrafted: whether to compute the handcrafted features.
    """
    volume = scans["scan"]
    if mask is not None and region is None:
        region = region_of_mask(mask)
    measured = features(volume, region, mask) if handcrafted else dict.fromkeys(FEATURE_NAMES, np.nan)
    return NetworkInput(
        image=preprocessing.image(scans, region).astype(np.float16),  # exact: its values have float16 precision
        path=str(volume.provenance.path),
        study_uid=volume.provenance.study_uid,
        series_uid=volume.provenance.series_uid,
        notes=joined(*dict.fromkeys((*_notes(scans, preprocessing.config), *(mask.verdict.notes if mask else ())))),
        within="mask" if mask is not None else "whole" if region is None else "roi",
        handcrafted=np.array([measured[name] for name in FEATURE_NAMES]),
        facts=input_facts(volume),
        sample_hash=sample_hash(volume),
    )


def _notes(scans: Scans, config: PreprocessingConfig) -> Iterator[str]:
    """Repairs and remarks; doubts about Hounsfield units only for channels that should be CT."""
    modalities = {
        column: channel.modality for column, channel in zip(config.column_of_channel, config.by_channel, strict=True)
    }
    for column, scan in scans.items():
        yield from scan.verdict.notes
        if scan.verdict.doubt and modalities.get(column) in (None, "CT"):
            yield scan.verdict.doubt


def read_input(
    case: Case, config: PreprocessingConfig, series: Series | None = None, *, handcrafted: bool = False
) -> NetworkInput:
    """Read the scans of a case (:func:`read_scans`) and return their :func:`network_input`. Raises ScanError."""
    with confined(case.path):
        scans = read_scans(case, config, series)
        region, mask = region_of_case(case, scans["scan"])
        return network_input(scans, Preprocessing(config), region, mask, handcrafted=handcrafted)


def prepare_scan(case: Case, preprocessing: Preprocessing, margin: Margin = (0, 0, 0)) -> PreparedScan:
    """Read and preprocess one case: its scan and those of further channels.

    Raises:
        ScanError: the scan cannot be used; the message says why.
    """
    return prepare_volumes(case, read_scans(case, preprocessing.config), preprocessing, margin)


def prepare_volumes(case: Case, volumes: Scans, preprocessing: Preprocessing, margin: Margin) -> PreparedScan:
    """Preprocess one case whose scans were already read by :func:`read_scans`. Raises ScanError."""
    volume = volumes["scan"]
    region, mask = region_of_case(case, volume)
    handcrafted = features(volume, region, mask)
    repaired = [scan.verdict for scan in volumes.values() if scan.verdict.repairs]
    return PreparedScan(
        tensor=preprocessing.image(volumes, region, margin).astype(np.float16),
        content_hashes=tuple(scan.content_hash for scan in volumes.values()),
        handcrafted=np.array([handcrafted[name] for name in FEATURE_NAMES]),
        spacings_mm=tuple(scan.spacing_mm for scan in volumes.values()),
        study_uid=volume.provenance.study_uid,
        series_uid=volume.provenance.series_uid,
        repair="; ".join(reason for verdict in repaired for reason in verdict.reasons),
        acquisition=acquisition_facts(volume),
        voxel_mm=preprocessing.grid(volume, region).voxel_mm,
        input_facts=input_facts(volume),
        sample_hash=sample_hash(volume),
    )


@dataclass(frozen=True)
class PreparedCohort:
    """The usable scans of a cohort, in the cohort's order, and records of those that failed."""

    cohort: Cohort
    scans: tuple[PreparedScan, ...]
    failed: tuple[Prediction, ...] = ()

    @property
    def tensors(self) -> list[NDArray[np.float16]]:
        """Network inputs [channel, depth, height, width], one per case."""
        return [scan.tensor for scan in self.scans]

    @property
    def voxel_mm(self) -> list[tuple[float, float, float]]:
        """Voxel size of each network input, along depth, height, width."""
        return [scan.voxel_mm for scan in self.scans]

    @property
    def content_hashes(self) -> list[Images]:
        """SHA-256 of the voxels of each scan, per case."""
        return [scan.content_hashes for scan in self.scans]

    @property
    def images(self) -> set[str]:
        """Content hashes of all scans of all cases."""
        return {image for scan in self.scans for image in scan.content_hashes}

    @property
    def patient_hashes(self) -> set[str]:
        """Hashes of the known patients, salted with these images; slow the first time."""
        return set(hash_names(self.cohort.patients, salt_of(self.images)).values())

    def subset(self, indices: Iterable[int]) -> PreparedCohort:
        """Return the scans at these positions; failed ones are kept."""
        chosen = list(indices)
        return PreparedCohort(self.cohort.subset(chosen), tuple(self.scans[i] for i in chosen), self.failed)

    def without_margin(self, margin: Margin) -> PreparedCohort:
        """Return the scans with the augmentation margin (in voxels per side) cropped from their tensors."""
        middle = tuple(slice(m, -m or None) for m in margin)
        scans = tuple(replace(scan, tensor=scan.tensor[:, *middle]) for scan in self.scans)
        return replace(self, scans=scans)

    def unanswered(self) -> list[Prediction]:
        """Return a record for each scan that a prediction will complete."""
        return [
            Prediction(case.scan, case.patient, scan.study_uid, scan.series_uid)
            for case, scan in zip(self.cohort.cases, self.scans, strict=True)
        ]

    @property
    def handcrafted(self) -> NDArray[np.float64]:
        """Handcrafted features [scan, feature]."""
        return np.stack([scan.handcrafted for scan in self.scans])

    @property
    def acquisitions(self) -> list[Facts]:
        """Acquisition facts of each scan, from its header and grid."""
        return [scan.acquisition for scan in self.scans]


def prepare_cohort(
    cohort: Cohort, preprocessing: Preprocessing, cache: Path, margin: Margin = (0, 0, 0), progress: Progress = silent
) -> PreparedCohort:
    """Prepare every scan of a cohort; a scan that cannot be used is recorded with its reason and skipped.

    Args:
        cohort: the cohort.
        preprocessing: how scans become tensors.
        cache: folder in which prepared scans are kept.
        margin: extra voxels on each side of the tensor along depth, height, width, for augmentation.
        progress: progress callback.

    Raises:
        CohortError: no row names a scan for a channel.
        NothingDone: no scan can be used.
    """
    require_columns(cohort, preprocessing.config.columns)
    usable: list[int] = []
    scans: list[PreparedScan] = []
    failed: list[Prediction] = []
    progress("reading scans", 0, len(cohort.cases))  # so that remarks on the first scan belong to this stage
    for index, case in enumerate(cohort.cases):
        try:
            with confined(case.path):
                scans.append(_cached(case, preprocessing, cache, margin))
            usable.append(index)
        except ScanError as error:
            remark(log, "left out: %s", error, kind=error.problem)
            failed.append(without_prediction(case, error))
        progress("reading scans", index + 1, len(cohort.cases))
    if not usable:
        raise NothingDone.of(len(failed), cohort.path or "", failed[0].reason)
    prepared = PreparedCohort(cohort.subset(usable), tuple(scans), tuple(failed))
    _warn_of_copies(prepared.cohort, prepared.content_hashes)
    _warn_of_parted_studies(prepared.cohort, [scan.study_uid for scan in prepared.scans])
    return prepared


def _warn_of_copies(cohort: Cohort, content_hashes: Sequence[Images]) -> None:
    """Warn of identical images under two patients, of which one is wrong, or with two labels, likewise."""
    everyone, cases = range(len(cohort)), cohort.cases
    pairs = [(first, case) for case, first in shared_by(content_hashes, everyone, everyone) if first != case]
    copies = [(a, b) for a, b in pairs if _two_patients(cases[a], cases[b])]
    contradictory = [
        (a, b)
        for a, b in pairs
        if (a, b) not in copies and content_hashes[a] == content_hashes[b] and _contradict(cases[a], cases[b])
    ]
    if copies:
        log.warning(
            "identical images under two patients: %s. They count as two scans; correct the column patient, or leave "
            "the copy out",
            pairs_text(cohort, copies, 3),
        )
    if contradictory:
        log.warning(
            "identical images with different labels: %s. Correct the label, or leave the copy out",
            pairs_text(cohort, contradictory, 3),
        )


def _warn_of_parted_studies(cohort: Cohort, study_uids: Sequence[str]) -> None:
    """Warn of scans of one DICOM study under two patients: a study is of one person, whom a split could part."""
    everyone, cases = range(len(cohort)), cohort.cases
    pairs = shared_by([(uid,) if uid else () for uid in study_uids], everyone, everyone)
    if parted := [(first, case) for case, first in pairs if _two_patients(cases[first], cases[case])]:
        log.warning(
            "scans of one study (StudyInstanceUID) under two patients: %s. A split may part them; unless software "
            "has given several people one UID, correct the column patient",
            pairs_text(cohort, parted, 3),
        )


def _two_patients(first: Case, second: Case) -> bool:
    """Whether two cases are of different patients; an unknown patient may be any other."""
    return bool(first.patient and second.patient) and first.patient != second.patient


def _contradict(first: Case, second: Case) -> bool:
    """Whether two cases of the same images have different labels for the same region."""
    regions = [(case.roi_centre_mm, case.roi_size_mm, case.mask, case.mask_name) for case in (first, second)]
    return first.label != second.label and regions[0] == regions[1]


def without_prediction(case: Case, error: ScanError) -> Prediction:
    """Return the record of a scan without a prediction: rejected as unsuitable input, or failed.

    Its reason names files as the table does, without local folders. ``problem`` and ``found``, which reports count,
    name no file, since a file name may contain a patient's name; they only say which file of the case is meant.
    """
    status = "rejected" if isinstance(error, GeometryRejected | InputRejected) else "failed"
    names = [(str(case.path), case.scan, "scan")]
    for column, name in case.columns.items():
        if column.startswith("scan_") and (scan := case.scan_in(column)):
            names.append((str(scan[0]), name, column))
    if case.mask is not None:
        names.append((str(case.mask), case.mask.name, "mask"))
    about = next((what for path, _, what in names if error.where.startswith(path) and what != "scan"), "")

    def without_folders(text: str, called: int) -> str:
        for parts in names:
            text = text.replace(parts[0], parts[called])
        return text

    found, advice = (part.mapped(partial(without_folders, called=2)) for part in (error.found, error.advice))
    if about:
        found = Sentence("{about}: {found}", about=about, found=found)

    return Prediction(
        case.scan,
        case.patient,
        series_uid=case.series_uid,
        status=status,
        reason=error.message.mapped(partial(without_folders, called=1)),
        problem=Sentence("{found}{advice}", found=found, advice=advice),
        found=found,
    )


def _cached(case: Case, preprocessing: Preprocessing, cache: Path, margin: Margin) -> PreparedScan:
    key = preparation_key(case, preprocessing, margin)
    if entry := ArrayCache(cache).read(key):
        lists = {name: tuple(entry.record[name]) for name in ("content_hashes", "voxel_mm")}
        spacings = tuple(map(tuple, entry.record["spacings_mm"]))
        return PreparedScan(**{**entry.arrays, **entry.record, **lists, "spacings_mm": spacings})
    prepared = prepare_scan(case, preprocessing, margin)
    arrays, record = ({name: getattr(prepared, name) for name in names} for names in (_ARRAYS, _RECORDED))
    ArrayCache(cache).write(key, arrays, record)
    return prepared


def preparation_key(
    case: Case, preprocessing: Preprocessing, margin: Margin = (0, 0, 0), series: Series | None = None
) -> str:
    """Return a cache key that changes with files, region and preprocessing, so that a stale result is never used.

    Args:
        case: the case.
        preprocessing: how the case is prepared.
        margin: extra voxels on each side along depth, height, width.
        series: the series of column ``scan``, if already found; other files of its folder are then ignored.
    """
    scans = [scan for column in preprocessing.config.columns if (scan := case.scan_in(column))]
    paths = [path for path, _ in scans] + ([case.mask] if case.mask else [])
    seen = [*stamps_when_found(series), *stamps(paths[1:])] if series else stamps(paths)
    region = [case.roi_centre_mm, case.roi_size_mm, str(case.mask and case.mask.absolute()), case.mask_name]
    what = [_CACHE_FORMAT, [(str(path.absolute()), uid) for path, uid in scans], region, seen, margin]
    return cache_key(what, preprocessing.config.model_dump(mode="json"))
