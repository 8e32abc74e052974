"""Export of feedback as a cohort table for the next fine-tuning: one row per series, with its latest label."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from med_transfer.atomic.csv_table import write_csv
from med_transfer.cohorts.label_text import spelling_key
from med_transfer.errors import NothingDone
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Feedback, Queue, answering
from med_transfer.hospital.review.bundle_records import bundle_record
from med_transfer.predictions.labels import Labels
from med_transfer.scans.search.pseudonyms import own_key, pseudonym, read_key

KEY_FILE = "labels.key"  # secret for the pseudonyms, in the node's folder
_FINDING = "label_"


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        rows: number of series written.
        without_images: number of labelled series left out because the node has deleted their images.
        of_other_classes: number of labelled series left out because the label was chosen among other classes, or among
            classes that are unknown since the bundle cannot be read.
        without_series: number of labels left out because they were given for an answer that is not on a single series.
        key: the file with the secret for the pseudonyms.
    """

    rows: int
    without_images: int
    of_other_classes: int
    without_series: int
    key: Path


def export_labels(node: NodeConfig, queue: Queue, out: Path, route: str = "") -> Exported:
    """Write a cohort table for ``med-transfer finetune``, with a column ``label`` or ``label_<finding>`` columns.

    Patients get pseudonyms that are the same in every export of the node. A series has the label that was given last,
    for any revision or bundle of the route; a mere comment gives no label. The classes are those of the bundle that
    was judged last; a label given for a bundle that lacks one of them is left out.

    Raises:
        NothingDone: no series with a label still has its images, or no bundle that was judged can be read.
        OutputError: the table or the key cannot be written.
    """
    given = _given(queue, route)
    latest = _latest(given)
    here = [one for one in latest if not queue.deleted(one.study)]
    asked = {mark: record for mark in {one.bundle for one in here} if (record := bundle_record(node, mark))}
    judged = [one for one in here if one.bundle in asked]
    if not judged:
        raise _nothing_to_export(node, latest, here)
    labels = asked[judged[-1].bundle].labels
    chosen = [one for one in judged if _is_label(one.label or "", labels, asked[one.bundle].labels)]
    key_file = own_key(node.folder / KEY_FILE)
    key, patients = read_key(key_file), _patients(queue)
    rows = [
        {
            "scan": Path(os.path.relpath(node.folder / "incoming" / one.study, out.parent)).as_posix(),
            "series_uid": one.series_uid,
            "patient": pseudonym(spelling_key(patients.get(one.study) or one.study), key),
            **_cells(labels, one.label or ""),
        }
        for one in chosen
    ]
    write_csv(out, ["scan", "series_uid", "patient", *_columns(labels)], rows)
    without_series = sum(not one.series_uid for one in given)
    return Exported(len(rows), len(latest) - len(here), len(here) - len(chosen), without_series, key_file)


def _nothing_to_export(node: NodeConfig, latest: list[Feedback], here: list[Feedback]) -> NothingDone:
    found, action = "no labels", "Judge some studies on the page"
    if here:
        found, action = f"{len(here)} labels, and the bundles of none can be read", "Restore the folder bundles"
    elif latest:
        found = f"{len(latest)} labels, and the images of none are here any more"
        action = "Keep images longer (study.keep_days)"
    expected = "a series that somebody has agreed or disagreed with on the review page"
    return NothingDone(found, where=node.folder, expected=expected, action=action)


def _given(queue: Queue, route: str) -> list[Feedback]:
    """Feedback with a label on answers of the route, in the order in which it was given."""
    with queue.reading() as database:
        judgements = answering.feedback(database)
        rows = database.execute("SELECT study, revision, number FROM answer WHERE route = ?", (route,))
        of_route = set(rows.fetchall())
    return [one for one in judgements if one.label is not None and (one.study, one.revision, one.number) in of_route]


def _latest(given: list[Feedback]) -> list[Feedback]:
    """The last of each series, in the order in which they were given."""
    last = {(one.study, one.series_uid): number for number, one in enumerate(given) if one.series_uid}
    return [given[number] for number in sorted(last.values())]


def _patients(queue: Queue) -> dict[str, str]:
    with queue.reading() as database:
        return dict(database.execute("SELECT study, patient_id FROM worklist"))


def _is_label(label: str, wanted: Labels, asked: Labels) -> bool:
    """Whether a label means the same among the wanted classes as among those that were asked for.

    A class or finding that was no choice must not count as absent, and findings are no class.
    """
    same_kind = wanted.multilabel == asked.multilabel and set(wanted.names) <= set(asked.names)
    return same_kind and (wanted.multilabel or label in wanted.names)


def _columns(labels: Labels) -> list[str]:
    return [f"{_FINDING}{name}" for name in labels.names] if labels.multilabel else ["label"]


def _cells(labels: Labels, label: str) -> Mapping[str, object]:
    if not labels.multilabel:
        return {"label": label}
    found = label.split(";")
    return {f"{_FINDING}{name}": int(name in found) for name in labels.names}
