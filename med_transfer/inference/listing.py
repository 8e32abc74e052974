"""List the scans to predict: those of a folder tree, the rows of a table, or one scan with a region of interest."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from med_transfer.cohorts import (
    Case,
    Cohort,
    cache_key,
    preparation_key,
    read_scans,
    region_of_case,
    require_columns,
)
from med_transfer.errors import CohortError, ScanNotFound, UnreadableScan, UsageError, given_path
from med_transfer.errors.given_numbers import finite_numbers
from med_transfer.errors.sentence import Sentence, files
from med_transfer.fusion.clinical import with_values
from med_transfer.predictions.record import Prediction
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.progress import Progress, silent
from med_transfer.scans import Region, Series, Volume, survey
from med_transfer.scans.search.links import follow_links_advice


@dataclass(frozen=True)
class ScanWithRegion:
    """One scan and its region of interest, given without a table.

    Attributes:
        path: file or folder of the scan.
        mask: file of the finding's mask.
        roi_mm: region of interest: its centre x, y, z in DICOM patient coordinates (LPS), and its edge length.

    Raises:
        UsageError: ``roi_mm`` is no such region.
    """

    path: Path | str
    mask: Path | str | None = None
    roi_mm: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.roi_mm is not None and not (finite_numbers(self.roi_mm, 4) and self.roi_mm[3] > 0):
            raise UsageError(
                f"found {reprlib.repr(self.roi_mm)}", where="roi_mm", expected="x, y, z and a size above 0, in mm (LPS)"
            )

    def apply_to(self, item: ScanToPredict) -> ScanToPredict:
        """Return the item as if its table row had given the mask and region."""
        centre, size = (self.roi_mm[:3], self.roi_mm[3]) if self.roi_mm else (None, None)
        mask = None if self.mask is None else given_path(self.mask, "mask", "the path of a mask")
        return replace(item, case=replace(item.case, mask=mask, roi_centre_mm=centre, roi_size_mm=size))


@dataclass(frozen=True)
class ScanToPredict:
    """One case to predict: a row of a table, a series found on disk, or a file with a description of its damage."""

    case: Case
    series: Series | None = None
    damage: str = ""

    @property
    def name(self) -> tuple[str, str]:
        """Scan name and series UID, which identify it within the folder or table."""
        return self.case.scan, self.case.series_uid

    def key(self, preprocessing: Preprocessing) -> str:
        """Hash of everything that the row depends on, apart from the bundle."""
        verdict = str(self.series.verdict) if self.series else ""  # a file beside a series may damage it
        written = [self.case.scan, self.case.patient, dict(self.case.columns), self.damage, verdict]
        return cache_key(preparation_key(self.case, preprocessing, series=self.series), written)

    def read(self, config: PreprocessingConfig) -> tuple[dict[str, Volume], Region | None, Volume | None]:
        """Read its scans by column, and its region of interest and mask, each None if not given. Raises ScanError."""
        if self.damage:
            raise UnreadableScan(self.damage, where=self.case.scan)
        scans = read_scans(self.case, config, self.series)
        return scans, *region_of_case(self.case, scans["scan"])

    def named(self, prediction: Prediction, seconds: float) -> Prediction:
        """Return the prediction under the names that the folder or table gives the scan, with its ``seconds``."""
        return replace(
            prediction,
            scan=self.case.scan,
            patient=self.case.patient,
            series_uid=self.case.series_uid or prediction.series_uid,
            seconds=round(seconds, 3),
        )


def path_of(scans: Path | str | ScanWithRegion) -> Path:
    """The file or folder of the scans."""
    given = scans.path if isinstance(scans, ScanWithRegion) else scans
    return given_path(given, "scans", "a folder of scans, one scan, or a cohort.csv")


def require_outside(out: Path, scans: Path) -> None:
    """Raises UsageError: the output folder lies within the folder of the scans."""
    if scans.is_dir() and out.resolve().is_relative_to(scans.resolve()):
        raise UsageError(
            "within the folder of the scans",
            where=out,
            expected="another output folder: maps that are written there would be taken for scans",
        )


def scans_to_predict(
    scans: Path | str | ScanWithRegion,
    config: PreprocessingConfig,
    progress: Progress = silent,
    *,
    handcrafted: bool = False,
) -> tuple[list[ScanToPredict], int]:
    """List the scans to predict, in a stable order, and count the files that are not scans.

    Args:
        scans: a folder tree, one scan, or a ``.csv`` table.
        config: the bundle's preprocessing.
        progress: called with the number of files examined.
        handcrafted: whether the bundle also uses handcrafted features, which are measured in a region.

    Raises:
        ScanNotFound: there are no scans.
        UsageError: a region was given for several scans or for a bundle that ignores it, or none though the bundle
            needs one.
        CohortError: the table cannot be read, or the input has several channels and no table assigns scans to them.
    """
    path = path_of(scans)
    of_table = path.suffix.lower() == ".csv"
    items, n_ignored = (_in_table(path, config), 0) if of_table else _in_folder(path, config, progress)
    if isinstance(scans, ScanWithRegion):
        if config.region != "roi" and not handcrafted:
            raise UsageError(
                "a mask or region, which would change nothing", where=path, expected=f"none: {config.region_sentence}"
            )
        return [_with_region(scans, items, of_table=of_table)], n_ignored
    if config.region == "roi" and not of_table:
        raise UsageError(
            "the network looks at regions of interest, and files alone give none",
            where=path,
            expected="a .csv table with a column mask, or roi_x_mm, roi_y_mm, roi_z_mm and roi_size_mm",
            action="For one scan --mask FILE or --roi x,y,z,size will do",
        )
    return items, n_ignored


def _with_region(alone: ScanWithRegion, items: Sequence[ScanToPredict], *, of_table: bool) -> ScanToPredict:
    if of_table or len(items) > 1:
        what = "a table, which has columns for it" if of_table else f"{len(items)} scans"
        raise UsageError(f"a mask or region for {what}", where=alone.path, expected="one scan")
    return alone.apply_to(items[0])


def _in_table(table: Path, config: PreprocessingConfig) -> list[ScanToPredict]:
    cohort = Cohort.read(table, labelled=False)
    require_columns(cohort, config.columns)
    columns = with_values([case.columns for case in cohort.cases])
    return [ScanToPredict(replace(case, columns=own)) for case, own in zip(cohort.cases, columns, strict=True)]


def _in_folder(scans: Path, config: PreprocessingConfig, progress: Progress) -> tuple[list[ScanToPredict], int]:
    if len(config.columns) > 1:
        raise CohortError(
            f"the input is made of {len(config.columns)} scans a case",
            where=scans,
            expected=f"a .csv table with columns {', '.join(config.columns)}",
            action="A folder does not say which of its scans belong together, and in which order",
        )
    found = survey(scans, max_gap_mm=config.max_gap_mm, progress=progress)
    base = scans if scans.is_dir() else scans.parent
    damaged = [ScanToPredict(_case(base, file.path, ""), damage=file.reason) for file in found.ignored if file.damaged]
    items = [ScanToPredict(_case(base, one.path, one.name), one) for one in found.series] + damaged
    if not items:
        raise ScanNotFound(
            Sentence("no scan among {files}", files=files(len(found.ignored))),
            where=scans,
            expected="DICOM series, .nii, .nii.gz, .nrrd or .mha files",
            action=follow_links_advice(found.ignored),
        )
    return items, len(found.ignored) - len(damaged)


def _case(base: Path, path: Path, series_uid: str) -> Case:
    scan = path.relative_to(base).as_posix()
    return Case(scan=scan if scan != "." else path.name, path=path, patient="", label=None, series_uid=series_uid)
