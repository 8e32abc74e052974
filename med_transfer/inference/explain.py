"""Heat maps of scans as files: NIfTI in the scan's coordinates, a picture, and a record of how far to trust them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med_transfer.atomic import output_error, write_bytes, write_text
from med_transfer.atomic.csv_table import write_csv
from med_transfer.atomic.partial_files import remove
from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.cohorts import without_prediction
from med_transfer.errors import NothingDone, ScanError, UsageError, given_path
from med_transfer.explanation import MapCheckSettings, explain
from med_transfer.explanation.files import write_map
from med_transfer.explanation.mapping import on_scan
from med_transfer.explanation.picture import heat_picture
from med_transfer.explanation.record import (
    MAP_FILE,
    PICTURE_FILE,
    RECORD_FILE,
    ExplanationRecord,
    record_of,
    seen_region,
)
from med_transfer.explanation.settings import MapSettings
from med_transfer.inference import Predictor
from med_transfer.inference.listing import ScanToPredict, ScanWithRegion, scans_to_predict
from med_transfer.predictions.record import Prediction
from med_transfer.progress import Progress, remark, silent
from med_transfer.scans import Region, Volume
from med_transfer.scans.geometry import Grid
from med_transfer.scans.isolation import confined

log = logging.getLogger(__name__)

TABLE_FILE = "explanations.csv"


@dataclass(frozen=True)
class ExplainedScans:
    """Outcome of explaining several scans.

    Attributes:
        folders: one per scan.
        records: in the same order; None for a scan that could not be explained.
        table: ``explanations.csv``, which gives the reasons; None for a single scan.
    """

    folders: tuple[Path, ...]
    records: tuple[ExplanationRecord | None, ...]
    table: Path | None = None

    @property
    def exit_code(self) -> int:
        """0 if all scans were explained, 1 if some were not."""
        return int(None in self.records)


@dataclass(frozen=True)
class ScanMap:
    """Where the network looked in one scan.

    Attributes:
        record: class, method, position of the peak, and doubts about the map.
        values: float32 [depth, height, width] on the scan's voxels; NaN outside of the network's input.
        window: voxel values of the scan that the picture shows as black and as white.
        seen: the box that the network saw.
    """

    record: ExplanationRecord
    values: NDArray[np.float32]
    window: tuple[float, float]
    seen: Region

    @property
    def share(self) -> NDArray[np.float32]:
        """The map as a share of its maximum, in [0, 1]; NaN, and evidence against the class, become 0."""
        return np.clip(np.nan_to_num(self.values) / np.nanmax(self.values), 0, 1)

    def picture(self, volume: Volume) -> bytes:
        """PNG of the three planes through the peak: without the map above, with it below."""
        through = self.record.peak_lps_mm
        return heat_picture(volume.voxels, self.values, volume.affine, self.window, through, region=self.seen)


def explain_scans(
    bundle: Predictor | os.PathLike[str] | str,
    scans: Path | str | ScanWithRegion,
    out: Path | str,
    settings: MapSettings = MapSettings(),  # noqa: B008
    *,
    class_name: str | None = None,
    progress: Progress = silent,
) -> ExplainedScans:
    """Map where a bundle's network looks in each scan.

    For a single scan, map.nii.gz, picture.png and explanation.json are written to ``out`` itself. For several, each
    gets a folder ``out/0001`` and so on, in the order of ``out/explanations.csv``, which also lists those that failed.

    Args:
        bundle: a bundle folder, the run folder that holds one, or the result of ``load_bundle``, on a device of your
            choice.
        scans: one scan, a folder tree, or a ``.csv`` table (for regions of interest or channels; labels not needed).
        out: folder to write to.
        settings: how the maps are made.
        class_name: the class to explain; None: the predicted one, or the most probable one.
        progress: called as scans are explained.

    Raises:
        UsageError: the class is unknown, the settings do not fit the network or its input, a region was given for
            several scans, or none was given though the bundle needs one.
        BundleError: the folder is no bundle, or its network is missing or changed.
        ScanError: the only scan cannot be used.
        NothingDone: none of several scans can be used.
        FolderInUse: another run is writing to ``out``.
        OutputError: a file cannot be written.
    """
    out = given_path(out, "out", "an output folder")
    predictor = bundle if isinstance(bundle, Predictor) else Predictor(bundle, runtime="torch")
    names = predictor.record.classes
    if class_name is not None and class_name not in names:
        raise UsageError(
            f"class {class_name!r} is unknown to the bundle", where="class_name", expected=f"one of {', '.join(names)}"
        )
    items, _ = scans_to_predict(scans, predictor.preprocessing.config, handcrafted=predictor.needs_handcrafted)
    with sole_writer(out):
        _forget_earlier(out, len(items))
        if len(items) == 1:
            record = explain_item(predictor, items[0], out, settings, class_name, progress)
            return ExplainedScans((out,), (record,))
        explained, reason = _explain_each(predictor, items, out, settings, class_name, progress)
    if not any(explained.records):
        raise NothingDone.of(len(items), scans, reason, "explained")
    return explained


def _explain_each(
    predictor: Predictor,
    items: Sequence[ScanToPredict],
    out: Path,
    settings: MapSettings,
    class_name: str | None,
    progress: Progress,
) -> tuple[ExplainedScans, str]:
    """Explain each scan in its own folder; also return why the first one failed (empty if it did not)."""
    folders = _folders(out, len(items))
    records: list[ExplanationRecord | None] = []
    reasons: list[str] = []
    for number, (item, folder) in enumerate(zip(items, folders, strict=True), start=1):
        record, reason = _attempt(predictor, item, folder, settings, class_name)
        records.append(record)
        reasons.append(reason)
        progress("explaining", number, len(items))
    names = [item.case.scan for item in items]
    write_table(out / TABLE_FILE, list(zip(names, folders, records, reasons, strict=True)))
    return ExplainedScans(folders, tuple(records), out / TABLE_FILE), reasons[0]


def _folders(out: Path, n_scans: int) -> tuple[Path, ...]:
    return tuple(out / f"{number:04d}" for number in range(1, n_scans + 1))


def _attempt(
    predictor: Predictor, item: ScanToPredict, folder: Path, settings: MapSettings, class_name: str | None
) -> tuple[ExplanationRecord | None, str]:
    try:
        with confined(item.case.path):
            return explain_item(predictor, item, folder, settings, class_name), ""
    except ScanError as error:
        _forget(folder)
        reason = without_prediction(item.case, error).reason
        remark(log, "no explanation: %s", reason, kind=error.problem)
        return None, reason


def explain_item(
    predictor: Predictor,
    item: ScanToPredict,
    folder: Path,
    settings: MapSettings,
    class_name: str | None = None,
    progress: Progress = silent,
) -> ExplanationRecord:
    """Write the three files of one listed scan; arguments and errors as for :func:`explain_scans`."""
    scans, region, mask = item.read(predictor.preprocessing.config)
    answer = predictor.predict_read(scans, region, mask, item.case.columns)
    mapped = explain_scan(predictor, scans, region, answer, settings, class_name, progress=progress)
    _write(folder, mapped, scans["scan"])
    return mapped.record


def explain_scan(
    predictor: Predictor,
    scans: Mapping[str, Volume],
    region: Region | None,
    answer: Prediction,
    settings: MapSettings = MapSettings(),  # noqa: B008  frozen
    class_name: str | None = None,
    *,
    progress: Progress = silent,
) -> ScanMap:
    """Map where the network looked in a scan that has been predicted.

    Args:
        predictor: the predictor that made the prediction.
        scans, region: what it was given: Volumes by column, and the region of interest.
        answer: its prediction.
        settings: how the map is made.
        class_name: the class to explain; None: the predicted one, or the most probable one.
        progress: called as the map is computed.

    Raises:
        UsageError: the settings do not fit the network or its input.
        ScanError: the scan cannot be used.
    """
    most_probable = max(answer.probabilities, key=answer.probabilities.__getitem__)
    chosen = class_name or (answer.predicted if answer.predicted in answer.probabilities else most_probable)
    preprocessing, first = predictor.preprocessing, scans["scan"]
    grid, floor = preprocessing.grid(first, region), preprocessing.config.output_range[0]
    method = settings.on(grid, floor, progress)
    explanation = explain(
        predictor.torch_network,
        preprocessing(scans, region).to(predictor.device),
        predictor.record.classes.index(chosen),
        method,
        MapCheckSettings(
            fill=floor if settings.fill == "floor" else None, n_random=settings.hidden, draws=settings.n_draws
        ),
    )
    depth, height, width = first.voxels.shape
    scan, fused = Grid(first.affine, (depth, height, width)), predictor.record.fusion is not None
    return ScanMap(
        record_of(explanation, method, settings, (grid, scan), chosen, answer.predicted, fused),
        on_scan(explanation.heat.values, grid, scan.affine, scan.shape),
        shown_window(predictor, first),
        seen_region(grid),
    )


def shown_window(predictor: Predictor, volume: Volume) -> tuple[float, float]:
    """Voxel values that the picture shows as black and as white: the window of the network's first channel in HU, or,
    for other normalisations, the 0.5 and 99.5 percentiles."""
    config = predictor.preprocessing.config.by_channel[0]
    if config.normalisation == "window":
        return config.window_hu
    low, high = np.percentile(volume.voxels[::2, ::4, ::4], (0.5, 99.5))
    return float(low), float(high)


def _forget_earlier(out: Path, n_scans: int) -> None:
    """Delete what an earlier call for more scans, for one, or for several wrote where this one writes nothing.

    Raises:
        OutputError: a file cannot be deleted.
    """
    own = _folders(out, n_scans) if n_scans > 1 else ()
    for record in out.glob(f"[0-9][0-9][0-9][0-9]*/{RECORD_FILE}"):
        if record.parent not in own:
            _forget(record.parent)
            with suppress(OSError):  # it holds files of the user
                record.parent.rmdir()
    if n_scans == 1:
        remove(out / TABLE_FILE)
    else:
        _forget(out)


def _forget(folder: Path) -> None:
    """Delete what an earlier call wrote there, since it may belong to another scan. Raises OutputError."""
    try:
        for name in (RECORD_FILE, PICTURE_FILE, MAP_FILE):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def _write(folder: Path, mapped: ScanMap, volume: Volume) -> None:
    _forget(folder)
    write_map(folder / MAP_FILE, mapped.values, volume.affine)
    write_bytes(folder / PICTURE_FILE, mapped.picture(volume))
    write_text(folder / RECORD_FILE, mapped.record.model_dump_json(indent=2) + "\n")


def write_table(path: Path, scans: Sequence[tuple[str, Path, ExplanationRecord | None, str]]) -> None:
    """Write ``explanations.csv``; each scan is (name, folder, record, reason if there is none). Raises OutputError."""
    rows = [
        {**_row(record), "scan": name, "folder": folder.name if record else "", "reason": reason}
        for name, folder, record, reason in scans
    ]
    write_csv(path, list(_row(None)), rows)


def _row(record: ExplanationRecord | None) -> Mapping[str, object]:
    """A row of the table; unknown values are empty."""
    deletion, checked = (record.deletion, record.sanity) if record else (None, None)
    return {
        "scan": "",
        "folder": "",
        "class": record.class_name if record else "",
        "probability": record.probability if record else "",
        "predicted": record.predicted if record else "",
        "probability_drop": deletion.probability_drop if deletion else "",
        "as_large_at_random": deletion.as_large_at_random if deletion else "",
        "rank_correlation": checked.rank_correlation if checked else "",
        "doubts": " ".join(record.doubts) if record else "",
        "reason": "",
    }
