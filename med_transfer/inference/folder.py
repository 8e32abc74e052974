"""Batch inference: every scan of a folder tree or a table, whatever happens to one of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from med_transfer.atomic import sole_writer
from med_transfer.bundle import versions
from med_transfer.cohorts import (
    Case,
    Cohort,
    cache_key,
    preparation_key,
    read_scans,
    region_of_case,
    require_columns,
    without_prediction,
)
from med_transfer.errors import (
    CohortError,
    NothingDone,
    ScanAborted,
    ScanError,
    ScanNotFound,
    UnreadableScan,
    UsageError,
)
from med_transfer.fusion.clinical import with_values
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.origins import RETRIED, RowOrigins
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.progress import Progress, log_file, remark, silent
from med_transfer.scans import Region, Series, Volume, survey
from med_transfer.scans.isolation import confined
from med_transfer.scans.search.links import how_to_follow

log = logging.getLogger(__name__)

LOG_FILE = "run.log"


class ReadsAndPredicts(Protocol):
    """What a batch needs of a predictor; ``predict`` may raise ScanError.

    Attributes:
        preprocessing: of its network's input.
        identity: hash of all that decides its answers.
    """

    preprocessing: Preprocessing
    identity: str

    def predict(
        self,
        source: Mapping[str, Volume],
        region: Region | None = None,
        *,
        mask: Volume | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Prediction:
        """As :meth:`med_transfer.inference.Predictor.predict`."""
        ...


@dataclass(frozen=True)
class FolderOutcome:
    """What became of a batch; every scan is a row of ``table``, every file that is none is counted as ignored.

    ``n_fused`` of the predicted scans also have a fused prediction; None when the bundle has no fusion. ``n_abstained``
    of them abstain: they are more out-of-distribution than the bundle's limit.
    """

    table: Path
    n_ok: int
    n_rejected: int
    n_failed: int
    n_ignored: int = 0
    n_fused: int | None = None
    n_abstained: int = 0

    @property
    def exit_code(self) -> int:
        """0 all predicted, 1 some not, 3 none."""
        if not self.n_ok:
            return NothingDone.exit_code
        return int(self.n_rejected + self.n_failed > 0)


@dataclass(frozen=True)
class ScanWithRegion:
    """One scan and where to look in it, without a table.

    Attributes:
        path: of the scan.
        mask: file of the finding's mask.
        roi_mm: middle of the region of interest, x, y and z in DICOM patient coordinates (LPS), and its edge.
    """

    path: Path
    mask: Path | None = None
    roi_mm: tuple[float, float, float, float] | None = None

    def given_to(self, item: ScanToPredict) -> ScanToPredict:
        """The scan, as if its table gave the mask and region."""
        centre, size = (self.roi_mm[:3], self.roi_mm[3]) if self.roi_mm else (None, None)
        return replace(item, case=replace(item.case, mask=self.mask, roi_centre_mm=centre, roi_size_mm=size))


@dataclass(frozen=True)
class ScanToPredict:
    """One case to predict: a row of a table, a series that was found, or a damaged file and what is wrong with it."""

    case: Case
    series: Series | None = None
    damage: str = ""

    def key(self, preprocessing: Preprocessing) -> str:
        """Changes with everything that the answer depends on, beside the bundle."""
        verdict = str(self.series.verdict) if self.series else ""  # a file beside a series may damage it
        written = [self.case.patient, dict(self.case.columns), self.damage, verdict]
        return cache_key(preparation_key(self.case, preprocessing, series=self.series), written)

    def read(self, predictor: ReadsAndPredicts) -> tuple[dict[str, Volume], Region | None, Volume | None]:
        """Its scans by column, where to look, and the mask where there is one. Raises ScanError."""
        if self.damage:
            raise UnreadableScan(self.damage, where=self.case.scan)
        scans = read_scans(self.case, predictor.preprocessing.config, self.series)
        return scans, *region_of_case(self.case, scans["scan"])

    def predict(self, predictor: ReadsAndPredicts) -> Prediction:
        """Raises ScanError."""
        scans, region, mask = self.read(predictor)
        return predictor.predict(scans, region, mask=mask, columns=self.case.columns)


def predict_all(
    predictor: ReadsAndPredicts,
    labels: Labels,
    scans: Path | str | ScanWithRegion,
    out: Path,
    progress: Progress = silent,
    *,
    fused: bool = False,
) -> FolderOutcome:
    """Predict every scan and write ``out/predictions.csv`` as it goes.

    Scans that the table already holds are not predicted again, so a killed run goes on where it was; one whose files,
    region or row have changed since is, and the row of one that is not there any more goes.

    Args:
        predictor: reads a scan and predicts it.
        labels: the bundle's classes.
        scans: a folder tree of mixed DICOM and other files, one scan, or a ``.csv`` table (labels not needed).
        out: folder of the result.
        progress: told how many scans are done.
        fused: whether the predictor gives fused probabilities too.

    Raises:
        ScanNotFound: no scan there.
        CohortError: the table cannot be read, or the input has several channels and no table says which scans they are.
        UsageError: a region for several scans, or none where the bundle needs one; the folder holds predictions by
            another bundle, or of scans from another place.
        OutputError: the result cannot be written.
    """
    items, n_ignored = scans_to_predict(scans, predictor.preprocessing.config)
    made_by = {
        "bundle": predictor.identity,
        "scans": cache_key(str(path_of(scans).resolve())),
        "version": cache_key(versions()),
    }
    with (
        sole_writer(out),
        log_file(out / LOG_FILE, delay=True),
        PredictionTable(out / "predictions.csv", labels, fused=fused) as table,
    ):
        origins = RowOrigins(table.path, table.lines, made_by)
        for number, item in enumerate(items, start=1):
            key = item.key(predictor.preprocessing)  # before reading: a file that changes meanwhile counts as changed
            if not origins.take(key):
                prediction, settled = _predict(item, predictor)
                origins.add(key if settled else RETRIED, table.append(prediction))
            progress("predicting", number, len(items))
        table.finish(origins.finish())
    rows = PredictionTable.load(out / "predictions.csv")
    statuses = [row.status for row in rows]
    counts = (statuses.count(word) for word in ("ok", "rejected", "failed"))
    n_fused = sum(bool(row.fused) for row in rows) if fused else None
    n_abstained = sum(row.abstained for row in rows)
    return FolderOutcome(
        out / "predictions.csv", *counts, n_ignored=n_ignored, n_fused=n_fused, n_abstained=n_abstained
    )


def _predict(item: ScanToPredict, predictor: ReadsAndPredicts) -> tuple[Prediction, bool]:
    """What becomes of a scan, and whether another attempt would come to the same."""
    started, settled = time.monotonic(), True
    try:
        with confined(item.case.path):
            prediction = item.predict(predictor)
    except ScanError as error:
        remark(log, "no prediction: %s", error, kind=error.problem)
        prediction, settled = without_prediction(item.case, error), not isinstance(error, ScanAborted)
    prediction = replace(
        prediction,
        scan=item.case.scan,
        patient=item.case.patient,
        series_uid=item.case.series_uid or prediction.series_uid,
        seconds=round(time.monotonic() - started, 3),
    )
    return prediction, settled


def path_of(scans: Path | str | ScanWithRegion) -> Path:
    """Where they are."""
    return scans.path if isinstance(scans, ScanWithRegion) else Path(scans)


def scans_to_predict(
    scans: Path | str | ScanWithRegion, config: PreprocessingConfig
) -> tuple[list[ScanToPredict], int]:
    """What there is to predict, in a stable order, and how many files are no scans.

    Raises:
        ScanNotFound: no scan there.
        UsageError: a region for several scans, or none where the bundle needs one.
        CohortError: the table cannot be read, or the input has several channels and no table says which scans they are.
    """
    alone, path = scans if isinstance(scans, ScanWithRegion) else None, path_of(scans)
    of_table = path.suffix.lower() == ".csv"
    items, n_ignored = (_in_table(path, config), 0) if of_table else _in_folder(path, config)
    if alone is None:
        if config.region == "roi" and not of_table:
            raise UsageError(
                "the network looks at regions of interest, and files alone give none",
                where=path,
                expected="a .csv table with a column mask, or roi_x_mm, roi_y_mm, roi_z_mm and roi_size_mm",
                action="For one scan --mask FILE or --roi x,y,z,size will do",
            )
        return items, n_ignored
    if of_table or len(items) > 1:
        what = "a table, which has columns for it" if of_table else f"{len(items)} scans"
        raise UsageError(f"a mask or region for {what}", where=path, expected="one scan")
    return [alone.given_to(item) for item in items], n_ignored


def _in_table(table: Path, config: PreprocessingConfig) -> list[ScanToPredict]:
    cohort = Cohort.read(table, labelled=False)
    require_columns(cohort, config.columns)
    columns = with_values([case.columns for case in cohort.cases])
    return [ScanToPredict(replace(case, columns=own)) for case, own in zip(cohort.cases, columns, strict=True)]


def _in_folder(scans: Path, config: PreprocessingConfig) -> tuple[list[ScanToPredict], int]:
    if len(config.columns) > 1:
        raise CohortError(
            f"the input is made of {len(config.columns)} scans a case",
            where=scans,
            expected=f"a .csv table with columns {', '.join(config.columns)}",
            action="A folder does not say which of its scans belong together, and in which order",
        )
    found = survey(scans, max_gap_mm=config.max_gap_mm)
    base = scans if scans.is_dir() else scans.parent
    damaged = [ScanToPredict(_case(base, file.path, ""), damage=file.reason) for file in found.ignored if file.damaged]
    items = [ScanToPredict(_case(base, one.path, one.name), one) for one in found.series] + damaged
    if not items:
        raise ScanNotFound(
            f"no scan among {len(found.ignored)} files",
            where=scans,
            expected="DICOM series, .nii, .nii.gz, .nrrd or .mha files",
            action=how_to_follow(found.ignored),
        )
    return items, len(found.ignored) - len(damaged)


def _case(base: Path, path: Path, series_uid: str) -> Case:
    scan = path.relative_to(base).as_posix()
    return Case(scan=scan if scan != "." else path.name, path=path, patient="", label=None, series_uid=series_uid)
