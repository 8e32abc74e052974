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
        without_findings: number of labelled series left out because some of the findings were not asked about.
        key: the file with the secret for the pseudonyms.
    """

    rows: int
    without_images: int
    without_findings: int
    key: Path


def export_labels(node: NodeConfig, queue: Queue, out: Path, route: str = "") -> Exported:
    """Write a cohort table for ``med-transfer finetune``, with a column ``label`` or ``label_<finding>`` columns.

    Patients get pseudonyms that are the same in every export of the node. A series has the label that was given last,
    for any revision or bundle of the route; a mere comment gives no label. The findings are those of the bundle that
    was judged last; a label given for a bundle that lacks one of them is left out.

    Raises:
        NothingDone: no series with a label still has its images.
        OutputError: the table or the key cannot be written.
    """
    latest = _latest(queue, route)
    here = {name: judgement for name, judgement in latest.items() if not queue.deleted(name[0])}
    if not here:
        raise NothingDone(
            "no labels" if not latest else f"{len(latest)} labels, and the images of none are here any more",
            where=node.folder,
            expected="a series that somebody has agreed or disagreed with on the review page",
            action="Keep images longer (study.keep_days)" if latest else "Judge some studies on the page",
        )
    key_file = own_key(node.folder / KEY_FILE)
    key, patients = read_key(key_file), _patients(queue)
    labels = _labels(node, max(here.values(), key=lambda judgement: judgement.time))
    complete = {
        name: judgement for name, judgement in here.items() if labels is None or _was_asked(node, labels, judgement)
    }
    columns = ["scan", "series_uid", "patient", *_columns(labels)]
    rows = [
        {
            "scan": Path(os.path.relpath(node.folder / "incoming" / study, out.parent)).as_posix(),
            "series_uid": series_uid,
            "patient": pseudonym(spelling_key(patients.get(study) or study), key),
            **_cells(labels, judgement.label or ""),
        }
        for (study, series_uid), judgement in complete.items()
    ]
    write_csv(out, columns, rows)
    return Exported(len(rows), len(latest) - len(here), len(here) - len(complete), key_file)


def _latest(queue: Queue, route: str) -> dict[tuple[str, str], Feedback]:
    """Latest feedback with a label for each series, by study and series UID."""
    with queue.reading() as database:
        judgements = answering.feedback(database)
        rows = database.execute("SELECT study, revision, number FROM answer WHERE route = ?", (route,))
        of_route = set(rows.fetchall())
    given = [one for one in judgements if one.label is not None and (one.study, one.revision, one.number) in of_route]
    return {(one.study, one.series_uid): one for one in given if one.series_uid}


def _patients(queue: Queue) -> dict[str, str]:
    with queue.reading() as database:
        return dict(database.execute("SELECT study, patient_id FROM worklist"))


def _labels(node: NodeConfig, last: Feedback) -> Labels | None:
    """Labels of the bundle that was judged last if it is multi-label; None: one class per scan."""
    bundle = bundle_record(node, last.bundle)
    return bundle.labels if bundle is not None and bundle.multilabel else None


def _was_asked(node: NodeConfig, labels: Labels, judgement: Feedback) -> bool:
    """Whether the judged bundle has all findings: one that nobody was asked about must not become a 0."""
    bundle = bundle_record(node, judgement.bundle)
    return bundle is not None and set(labels.names) <= set(bundle.classes)


def _columns(labels: Labels | None) -> list[str]:
    return ["label"] if labels is None else [f"{_FINDING}{name}" for name in labels.names]


def _cells(labels: Labels | None, label: str) -> Mapping[str, object]:
    if labels is None:
        return {"label": label}
    found = label.split(";")
    return {f"{_FINDING}{name}": int(name in found) for name in labels.names}
