"""What a cohort's scans look like: the facts that the rules of a plan read."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from med_transfer.cohorts import Case, Cohort, region_of_case
from med_transfer.cohorts.kept_scans import read_and_keep
from med_transfer.cohorts.splits import patients_to_divide
from med_transfer.errors import CohortError, NothingDone, ScanError
from med_transfer.errors.numbers import counted
from med_transfer.preprocessing.config import ORGANS, OrganName
from med_transfer.preprocessing.organs import NotFound, find_organ
from med_transfer.preprocessing.region import BODY_HU, foreground, whole
from med_transfer.preprocessing.window import foreground_threshold
from med_transfer.progress import Progress, remark, silent
from med_transfer.scans import Region, Volume, geometry
from med_transfer.scans.isolation import confined
from med_transfer.scans.voxel_checks import hounsfield_doubt

log = logging.getLogger(__name__)

BodyRegion = Literal["head", "chest", "trunk", "unknown"]
Triple = tuple[float, float, float]

REGION_ORGANS: tuple[OrganName, ...] = ("brain", "lungs")  # by which a part of the body is recognised
_OF_TABLE = ("", "auto", "roi")  # regions with which the network looks where the table says
MAX_SCANS = 60  # enough for medians, and a large cohort is not read twice
MIN_TRUNK_MM = (240.0, 150.0)  # right to left, front to back; heads and limbs are narrower
MAX_SHARE_OF_OTHERS = 0.1  # of the scans; with more the cohort mixes what should be learned apart


@dataclass(frozen=True)
class ScanFingerprint:
    """One scan.

    Attributes:
        modality: as the file states it; ``CT`` where it states none and holds Hounsfield units; else empty.
        plane: that the slices lie in, ``axial``, ``coronal``, ``sagittal`` or ``oblique``.
        shape: voxels along slice, row, column.
        spacing_mm: between them, along slice, row, column.
        boxes_mm: along depth (superior), height (posterior), width (left) of the whole scan, of the body and of each
            organ that was found.
        given_mm: the longest side of the region or mask that the table gives; None without one.
        body_region: what of the body is in view.
        seconds: that reading it and looking for organs took.
    """

    modality: str
    plane: str
    shape: tuple[int, int, int]
    spacing_mm: Triple
    boxes_mm: Mapping[str, Triple]
    given_mm: float | None
    body_region: BodyRegion
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class CohortFingerprint:
    """A cohort, from its table and a sample of its scans.

    Attributes:
        scans: that were read.
        patients_of_class: class or finding to its patients.
        n_patients, n_scans: in the table.
        multilabel: several findings a scan.
        n_with_region: rows that give a region or mask.
        channels: columns that name a scan in every row, ``scan`` first.
        failed: reasons of those that could not be read, counted.
        patients_to_divide: class, or finding and ``no FINDING``, to the patients whom folds are made of; empty: as
            ``patients_of_class``.
        table_split: word of the table's split column to its rows; empty without the column.
    """

    scans: tuple[ScanFingerprint, ...]
    patients_of_class: Mapping[str, int]
    n_patients: int
    n_scans: int
    multilabel: bool = False
    n_with_region: int = 0
    channels: tuple[str, ...] = ("scan",)
    failed: Mapping[str, int] = field(default_factory=dict)
    patients_to_divide: Mapping[str, int] = field(default_factory=dict)
    table_split: Mapping[str, int] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """Of most of them; empty where it is not known."""
        return _most_common(scan.modality for scan in self.scans)

    @property
    def plane(self) -> str:
        """That most lie in."""
        return _most_common(scan.plane for scan in self.scans)

    @property
    def body_region(self) -> BodyRegion:
        """What most have in view."""
        return _most_common(scan.body_region for scan in self.scans)  # type: ignore[return-value]

    @property
    def rarest(self) -> int:
        """Patients of the smallest class."""
        return min(self.patients_of_class.values())

    @property
    def read_seconds(self) -> float:
        """To read one scan, the mean."""
        return float(np.mean([scan.seconds for scan in self.scans]))

    @property
    def spacing_mm(self) -> Triple:
        """Along slice, row and column, the median."""
        return self.spacing_at(50)

    def spacing_at(self, percentile: float) -> Triple:
        """Along slice, row and column, each by itself."""
        return _percentile_of_each([scan.spacing_mm for scan in self.scans], percentile)

    def found(self, name: str) -> float:
        """Share of the scans in which the organ was found, or another part of which there is a box."""
        return sum(name in scan.boxes_mm for scan in self.scans) / len(self.scans)

    def box_mm(self, name: str, percentile: float = 50) -> Triple:
        """Of the whole scan, the body or an organ, along depth, height, width, where it was found."""
        return _percentile_of_each([scan.boxes_mm[name] for scan in self.scans if name in scan.boxes_mm], percentile)

    def given_mm(self, percentile: float) -> float:
        """The longest side of the table's regions; NaN where there is none."""
        given = [scan.given_mm for scan in self.scans if scan.given_mm is not None]
        return float(np.percentile(given, percentile)) if given else float("nan")


def fingerprint_cohort(
    cohort: Cohort, progress: Progress = silent, most_scans: int = MAX_SCANS, *, region: str = ""
) -> CohortFingerprint:
    """Read at most so many scans, evenly spread over the table, and say what they look like.

    Args:
        cohort: the table.
        progress: told how far it is.
        most_scans: that are read.
        region: ``input.region`` where the user has set it. With another one than the table's, the table is looked at
            as if it gave no regions, and an organ is measured too.

    Raises:
        NothingDone: none can be read.
    """
    positions = np.unique(np.linspace(0, len(cohort) - 1, min(most_scans, len(cohort))).round().astype(int))
    scans: list[ScanFingerprint] = []
    failed: Counter[str] = Counter()
    for done, case in enumerate(cohort.cases[position] for position in positions):
        progress("looking at scans", done, len(positions))
        try:
            with confined(case.path):
                scans.append(_read(case, region))
        except ScanError as error:
            remark(log, "not looked at: %s", error, kind=error.problem)
            failed[error.problem] += 1
    progress("looking at scans", len(positions), len(positions))
    if not scans:
        raise NothingDone.of(len(positions), cohort.path or "", next(iter(failed)), "read")
    with_region = sum(case.within != "whole" for case in cohort.cases) if region in _OF_TABLE else 0
    return CohortFingerprint(
        scans=tuple(scans),
        patients_of_class={name: patients for name, (_, patients) in cohort.counts().items()},
        n_patients=len(set(cohort.patients)),
        n_scans=len(cohort),
        multilabel=cohort.labels.multilabel,
        n_with_region=with_region,
        channels=_channels(cohort),
        failed=dict(failed),
        patients_to_divide=patients_to_divide(cohort),
        table_split=Counter(case.split for case in cohort.cases if case.split),
    )


def _read(case: Case, region: str) -> ScanFingerprint:
    started = time.perf_counter()
    volume = read_and_keep(case.path, case.series_uid)
    given, _ = region_of_case(case, volume) if region in _OF_TABLE else (None, "")
    return replace(fingerprint_scan(volume, given, region), seconds=time.perf_counter() - started)


def fingerprint_scan(volume: Volume, given: Region | None = None, region: str = "") -> ScanFingerprint:
    """What a scan looks like.

    Args:
        volume: the scan.
        given: the region that the table gives; then nothing is looked for in the scan.
        region: ``input.region`` where the user has set it; an organ is looked for beside the others.
    """
    modality = _modality(volume)
    body = foreground(volume, BODY_HU if modality == "CT" else foreground_threshold(volume))
    boxes = {"whole": _box(whole(volume)), "body": _box(body)}
    if modality == "CT" and given is None:
        asked: list[OrganName] = [organ for organ in ORGANS if organ in REGION_ORGANS or organ == region]
        organs = {name: find_organ(volume, name) for name in asked}
        boxes |= {name: _box(organ.region) for name, organ in organs.items() if not isinstance(organ, NotFound)}
    column_mm, row_mm, slice_mm = volume.spacing_mm
    return ScanFingerprint(
        modality=modality,
        plane=geometry.plane(volume.affine),
        shape=volume.voxels.shape,
        spacing_mm=(slice_mm, row_mm, column_mm),
        boxes_mm=boxes,
        given_mm=max(given.size_mm) if given else None,
        body_region=_body_region(modality, boxes) if given is None else "unknown",
    )


def _channels(cohort: Cohort) -> tuple[str, ...]:
    """Columns that name a scan of every case, the first one first."""
    further = sorted({name for case in cohort.cases for name in case.columns if name.startswith("scan_")})
    return ("scan", *(name for name in further if all(case.scan_in(name) for case in cohort.cases)))


def _modality(volume: Volume) -> str:
    return volume.provenance.modality or ("" if hounsfield_doubt(volume.voxels) else "CT")


def _body_region(modality: str, boxes: Mapping[str, Triple]) -> BodyRegion:
    """By what was found; a wide body without brain and lungs is the trunk below them."""
    if "brain" in boxes and "lungs" not in boxes:
        return "head"
    if "lungs" in boxes and "brain" not in boxes:
        return "chest"
    _, height, width = boxes["body"]
    wide = width >= MIN_TRUNK_MM[0] and height >= MIN_TRUNK_MM[1]
    return "trunk" if modality == "CT" and wide and "brain" not in boxes else "unknown"


def _box(region: Region) -> Triple:
    """Along depth, height, width of plain axial order."""
    width, height, depth = region.size_mm
    return depth, height, width


def require_alike(found: CohortFingerprint, where: object = "") -> None:
    """Refuse a table that mixes what no network should learn as one.

    Raises:
        CohortError: the scans are of several modalities, or without regions of several parts of the body.
    """
    scans = found.scans
    parts = (
        [] if found.n_with_region == found.n_scans else [("parts of the body", [scan.body_region for scan in scans])]
    )
    for what, values in [("modalities", [scan.modality or "none stated" for scan in scans]), *parts]:
        counts = Counter(values).most_common()
        known = [n for name, n in counts if name != "unknown"]
        if sum(known[1:]) > MAX_SHARE_OF_OTHERS * len(scans):
            shares = [f"{counted(n, 'scan')} {name}" for name, n in counts]
            raise CohortError(
                f"{what}: {', '.join(shares)}",
                where=where,
                expected="scans of one kind in one table",
                action="Divide the table, or write your own config and pass it with -c",
            )


def _most_common(values: Iterable[str]) -> str:
    return Counter(values).most_common(1)[0][0]


def _percentile_of_each(triples: list[Triple], percentile: float) -> Triple:
    first, second, third = np.percentile(np.array(triples), percentile, axis=0)
    return float(first), float(second), float(third)
