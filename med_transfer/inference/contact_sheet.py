"""Pictures of the scans in a batch that deserve a first look: those least like the training scans, and those with the
highest probability of an unusual class. On request, heat maps of these scans are written as NIfTI and PNG.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from med_transfer.cohorts import cache_key
from med_transfer.errors import MedTransferError, OutputError
from med_transfer.errors.sentence import Sentence
from med_transfer.explanation.picture import PictureStyle
from med_transfer.explanation.record import PICTURE_FILE, RECORD_FILE, ExplanationRecord, seen_region
from med_transfer.explanation.settings import MapSettings
from med_transfer.inference.explain import TABLE_FILE, explain_item, shown_window, write_table
from med_transfer.inference.folder import FolderOutcome
from med_transfer.inference.listing import ScanToPredict
from med_transfer.inference.predictor import Predictor
from med_transfer.predictions.record import Prediction
from med_transfer.progress import Progress, silent
from med_transfer.scans.inspection.picture import below_each_other, planes, read_png, row_image
from med_transfer.scans.isolation import confined

log = logging.getLogger(__name__)

MAPS_FOLDER = "maps"
_STYLE = PictureStyle(height_inches=1.2)


@dataclass(frozen=True)
class SuspiciousScan:
    """A scan and the reason to look at it: it is ``novel``, or an unusual class is ``likely``."""

    row: Prediction
    why: Literal["novel", "likely"]
    class_name: str = ""

    @property
    def value(self) -> float:
        """The scan's novelty, or the probability of that class; both in [0, 1]."""
        return (self.row.novelty or 0.0) if self.why == "novel" else self.row.probabilities[self.class_name]


@dataclass(frozen=True)
class ShownScan:
    """One entry of the sheet: a JPEG, or the reason why there is none, and the map's folder relative to the table's."""

    scan: SuspiciousScan
    picture: bytes = field(repr=False)
    maps: str = ""
    problem: str = ""


def most_suspicious(rows: Sequence[Prediction], n: int) -> list[SuspiciousScan]:
    """Return at most n scans, alternating between two rankings: by novelty, and by the probability of a class that is
    not the most frequent call. No scan appears twice."""
    answered = [row for row in rows if row.status == "ok" and row.probabilities]
    usual = Counter(row.predicted for row in answered).most_common(1)[0][0] if answered else ""
    novel = [SuspiciousScan(row, "novel") for row in answered if row.novelty is not None]
    likely = [
        SuspiciousScan(row, "likely", max(others, key=others.__getitem__))
        for row in answered
        if (others := {name: p for name, p in row.probabilities.items() if name != usual})
    ]
    chosen: dict[tuple[str, str], SuspiciousScan] = {}
    for pair in zip_longest(sorted(novel, key=_first), sorted(likely, key=_first)):
        for scan in filter(None, pair):
            chosen.setdefault((scan.row.scan, scan.row.series_uid), scan)
    return list(chosen.values())[:n]


def _first(scan: SuspiciousScan) -> tuple[float, str]:
    return -scan.value, scan.row.scan


class ContactSheet:
    """Pictures of the most suspicious scans of a batch, and heat maps of the first of them; none is made twice.

    Args:
        predictor: the predictor that the batch was made with.
        n_pictures: number of scans to show.
        n_maps: number of scans to map, into ``maps/`` beside the table, with ``explanations.csv``; their pictures show
            the map.
    """

    def __init__(self, predictor: Predictor, n_pictures: int, n_maps: int = 0) -> None:
        self._predictor, self._n_pictures, self._n_maps = predictor, n_pictures, n_maps
        self._pictures: dict[str, bytes] = {}

    def of(self, outcome: FolderOutcome, progress: Progress = silent) -> list[ShownScan]:
        """Return the sheet of a finished batch. Raises OutputError."""
        n_scans = max(self._n_pictures, self._n_maps)
        scans = most_suspicious(outcome.rows, n_scans) if n_scans else []
        items = _by_name(outcome.items)
        maps, shown, kept = outcome.table.parent / MAPS_FOLDER, [], {}
        for number, scan in enumerate(scans):
            item = items.get((scan.row.scan, scan.row.series_uid)) or items.get((scan.row.scan, ""))
            shown.append(self._shown(scan, item, maps if number < self._n_maps else None, kept))
            progress("looking at suspicious scans", number + 1, len(scans))
        self._pictures = kept
        if self._n_maps and shown:
            _write_maps_table(maps, shown[: self._n_maps])
        return shown[: self._n_pictures]

    def _shown(
        self, scan: SuspiciousScan, item: ScanToPredict | None, maps: Path | None, kept: dict[str, bytes]
    ) -> ShownScan:
        if item is None:
            return ShownScan(scan, b"", problem=Sentence("the table has several cases of this name"))
        key = cache_key(item.key(self._predictor.preprocessing), self._predictor.identity)[:16]
        folder, seen = (maps / key if maps else None), f"{key} {maps is None}"
        try:
            with confined(item.case.path):
                kept[seen] = self._pictures.get(seen) or (self._mapped(item, folder) if folder else self._plain(item))
        except OutputError:
            raise
        except MedTransferError as error:
            log.info("not shown: %s", error)
            return ShownScan(scan, b"", problem=error.found)
        return ShownScan(scan, kept[seen], f"{MAPS_FOLDER}/{key}" if maps else "")

    def _plain(self, item: ScanToPredict) -> bytes:
        scans, region, _ = item.read(self._predictor.preprocessing.config)
        volume = scans["scan"]
        seen = seen_region(self._predictor.preprocessing.grid(volume, region))
        drawn = planes(volume.voxels, volume.affine, shown_window(self._predictor, volume), seen)
        return below_each_other([row_image(drawn, height_inches=_STYLE.height_inches)], "jpeg")

    def _mapped(self, item: ScanToPredict, folder: Path) -> bytes:
        if not (folder / RECORD_FILE).exists():  # written last, so its presence means that the map is complete
            explain_item(self._predictor, item, folder, MapSettings())
        return below_each_other([read_png((folder / PICTURE_FILE).read_bytes())], "jpeg")


def _by_name(items: Sequence[ScanToPredict]) -> dict[tuple[str, str], ScanToPredict]:
    """Items by name; without names that a table repeats, as for several regions of one scan."""
    times = Counter(item.name for item in items)
    return {item.name: item for item in items if times[item.name] == 1}


def _write_maps_table(maps: Path, shown: Sequence[ShownScan]) -> None:
    def rows() -> Iterator[tuple[str, Path, ExplanationRecord | None, str]]:
        for one in shown:
            folder, record = maps / Path(one.maps).name, None
            if one.maps:
                record = ExplanationRecord.model_validate_json((folder / RECORD_FILE).read_bytes())
            yield one.scan.row.scan, folder, record, one.problem

    write_table(maps / TABLE_FILE, list(rows()))
