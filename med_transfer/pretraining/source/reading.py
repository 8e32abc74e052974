"""Reading the source of a pretraining from a folder of scans, a cohort table or a prepared file."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.atomic import write_text
from med_transfer.cohorts import Case, Cohort, hash_names, region_of_case, without_test_rows
from med_transfer.cohorts.left_behind import left_behind
from med_transfer.errors import CohortError, NothingDone, ScanError, ScanNotFound, UnusableVoxels
from med_transfer.errors.sentence import Sentence
from med_transfer.predictions.labels import Labels
from med_transfer.pretraining.config import PretrainingConfig
from med_transfer.pretraining.source.prepared import cached_scan
from med_transfer.pretraining.source.scans import SourceScan, SourceScans, prepare, stored_scans
from med_transfer.progress import Progress, remark, silent
from med_transfer.scans import Series, Volume, find_series, identity, read_scan
from med_transfer.scans.isolation import confined, isolated
from med_transfer.scans.stamps import stamps, stamps_when_found

log = logging.getLogger(__name__)

_SALT_BYTES = 16


@dataclass(frozen=True)
class LeftOut:
    """A scan that cannot be used, and why."""

    scan: str
    reason: str


@dataclass(frozen=True)
class Source:
    """The usable scans, and those left out."""

    scans: SourceScans
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """One scan to be read: its name in messages, its cache key, the function that reads it, and its label."""

    name: str
    key: str
    read: Callable[[], SourceScan]
    label: str | frozenset[str] | None = None


def read_source(scans: Path, spacing_mm: float = 1.0) -> SourceScans:
    """Read the usable scans of a folder tree, or of a file that ``SourceScans.save`` wrote, into memory.

    A scan that cannot be used is logged and left out.

    Raises:
        ScanNotFound: there is no usable scan.
        NotAScan: an ``.npz`` file that is something else.
    """
    if scans.suffix == ".npz":
        return SourceScans.load(scans)
    return SourceScans.from_volumes(_volumes(scans), spacing_mm)


def prepare_source(scans: Path, config: PretrainingConfig, folder: Path, progress: Progress = silent) -> Source:
    """Read every scan once and cache it on disk; scans that cannot be used are recorded and left out.

    Args:
        scans: a folder tree, a cohort.csv, or a file that ``SourceScans.save`` wrote. Rows of a table with
            ``split=test`` are never read.
        config: of the pretraining.
        folder: for the prepared arrays.
        progress: reports progress.

    Raises:
        ScanNotFound: there is no scan.
        CohortError: the table cannot be used, or lacks what the method needs.
        PatientLeak: a patient has rows marked ``split=test``, and others.
        NothingDone: there are scans, but none can be used.
        UsageError: the salt in ``folder`` is damaged, or gone while prepared scans are there.
    """
    entries, labels = _entries(scans, config, _salt(folder))
    usable: dict[tuple, SourceScan] = {}
    left_out = []
    for done, entry in enumerate(entries, start=1):
        try:
            with confined(entry.name):
                scan = replace(cached_scan(folder, entry.key, entry.read, entry.name), label=entry.label)
            # a copy of a scan counts once; another labelled region counts again, another mask is merged
            key = (scan.content_hash, *((scan.centre, scan.label) if labels else ()))
            usable[key] = _with_mask(usable[key], scan.mask) if key in usable else scan
        except ScanError as error:
            remark(log, "left out: %s", error, kind=error.problem)
            left_out.append(LeftOut(entry.name, str(error)))
        progress("reading scans", done, len(entries))
    if not usable:
        raise NothingDone.of(len(left_out), scans, left_out[0].reason)
    return Source(SourceScans(tuple(usable.values()), labels), tuple(left_out))


def _with_mask(scan: SourceScan, mask: NDArray[np.uint8] | None) -> SourceScan:
    """Merge the masks of several rows of one scan, so that all its findings are marked in every crop."""
    if scan.mask is None or mask is None:
        return scan
    return replace(scan, mask=np.maximum(scan.mask, mask))


def _salt(folder: Path) -> str:
    """Salt of the patients' hashes, kept as long as the prepared scans. Raises UsageError if it is damaged or gone."""
    file = folder / "salt"
    if not file.exists() and not any(folder.glob("*.json")):
        write_text(file, secrets.token_hex(_SALT_BYTES))
    with left_behind(file, remove=f"the folder {folder.name}"):
        salt = file.read_text()
        if len(bytes.fromhex(salt)) != _SALT_BYTES:
            raise ValueError("not as it was written")
        return salt


def _entries(scans: Path, config: PretrainingConfig, salt: str) -> tuple[Sequence[_Entry], Labels | None]:
    if scans.suffix.lower() == ".csv":
        return _table_entries(scans, config, salt)
    if config.method == "supervised":
        raise CohortError(
            "no table",
            where=scans,
            expected=f"a cohort.csv with a {config.supervised.target} in every row",
            action="med-transfer index makes one, or choose a method that needs no labels",
        )
    if scans.suffix.lower() == ".npz" and not scans.is_dir():
        return _stored_entries(scans), None
    entries = [_series_entry(series, config, salt) for series in find_series(scans)]
    if not entries:
        raise ScanNotFound("no scan to learn from", where=scans, expected="DICOM, NIfTI, NRRD or MetaImage")
    return entries, None


def _stored_entries(path: Path) -> list[_Entry]:
    """One entry for each scan of the file, so that a large file is never in memory as a whole."""
    readers, stamp = stored_scans(path), stamps([path])
    return [
        _Entry(f"{path.name}, scan {number}", _key(stamp, number), read) for number, read in enumerate(readers, start=1)
    ]


def _series_entry(series: Series, config: PretrainingConfig, salt: str) -> _Entry:
    def read() -> SourceScan:
        _require_modality(series.modality, config, series.path)
        volume = isolated(read_scan, series, max_gap_mm=config.max_gap_mm, where=series.path)
        patient = isolated(identity, series, where=series.path).patient
        return _with_patient(patient, prepare(volume, volume.content_hash, config.spacing_mm), salt)

    key = _key(str(series.path), series.name, stamps_when_found(series), _reading_settings(config))
    return _Entry(str(series.path), key, read)


def _table_entries(path: Path, config: PretrainingConfig, salt: str) -> tuple[Sequence[_Entry], Labels | None]:
    supervised = config.supervised if config.method == "supervised" else None
    labelled = supervised is not None and supervised.target == "label"
    cohort = without_test_rows(Cohort.read(path, labelled=labelled), "to learn from")
    cases = cohort.cases
    with_mask = supervised is not None and supervised.target == "mask"
    with_region = supervised is not None and (with_mask or supervised.region == "roi")
    for case in cases if with_region else ():
        if case.mask is None and (with_mask or case.roi_centre_mm is None):
            raise CohortError(
                f"{case} has no {'mask' if with_mask else 'region of interest'}",
                where=path,
                expected="a mask in every row" if with_mask else "roi_x_mm ... roi_size_mm or a mask in every row",
                action="" if with_mask else "Or set supervised.region=whole",
            )
    entries = [_case_entry(case, config, with_region, labelled, salt) for case in cases]
    return entries, cohort.labels if labelled else None


def _case_entry(case: Case, config: PretrainingConfig, with_region: bool, labelled: bool, salt: str) -> _Entry:
    def read() -> SourceScan:
        volume = isolated(read_scan, case.path, case.series_uid, max_gap_mm=config.max_gap_mm, where=case.path)
        _require_modality(volume.provenance.modality, config, case.path)
        region, mask = region_of_case(case, volume) if with_region else (None, None)
        centre_mm = region.centre_mm if region else None
        scan = prepare(volume, volume.content_hash, config.spacing_mm, mask, centre_mm)
        return _with_patient(case.patient, scan, salt)

    files = [path for path in (case.path, case.mask) if path]
    region = [case.roi_centre_mm, case.roi_size_mm, str(case.mask), case.mask_name, with_region, case.patient]
    key = _key(str(case.path), case.series_uid, stamps(files), region, _reading_settings(config))
    return _Entry(str(case), key, read, case.label if labelled else None)


def _require_modality(modality: str, config: PretrainingConfig, where: Path) -> None:
    if modality not in ("", config.modality):
        raise UnusableVoxels(Sentence("modality {modality}", modality=modality), where=where, expected=config.modality)


def _with_patient(patient: str, scan: SourceScan, salt: str) -> SourceScan:
    return replace(scan, patient_hash=hash_names([patient], salt).get(patient, ""))


def _reading_settings(config: PretrainingConfig) -> list[object]:
    """Settings that affect how a scan is prepared."""
    return [config.spacing_mm, config.max_gap_mm, config.modality]


def _key(*parts: object) -> str:
    """Cache key that changes with the files and their preparation, so that stale results are never used."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _volumes(folder: Path) -> Iterator[Volume]:
    for series in find_series(folder):
        try:
            yield isolated(read_scan, series, where=series.path)
        except ScanError as error:
            remark(log, "left out: %s", error, kind=error.problem)
