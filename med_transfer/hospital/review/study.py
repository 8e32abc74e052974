"""What the node knows of one study: what was said of each series, how far it can be relied on, and what came before."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from med_transfer.bundle.record import BundleRecord
from med_transfer.errors import ScanNotFound
from med_transfer.errors.sentence import Sentence, whole
from med_transfer.hospital import record
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.pictures import volume_file, write_volume
from med_transfer.hospital.queue import Feedback, Queue, SeriesAnswer, answering
from med_transfer.hospital.review.bundle_records import bundle_cases, bundle_record
from med_transfer.hospital.review.reasons import reason_in_words
from med_transfer.hospital.review.worklist import Line, line
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.record import SimilarCase
from med_transfer.scans.isolation.scan_worker import ScanWorker

_HISTORY = ("predicted", "reopened", "predicted though incomplete", "judged", "retried", "files deleted", "dead letter")


@dataclass(frozen=True)
class ClassFacts:
    """One class of one answer.

    Attributes:
        probability: calibrated, in [0, 1]; None: there is no answer.
        threshold: of the operating point; None: it has none for this class.
        sensitivity, specificity: on validation patients at this operating point, with 95 % interval, in words; empty:
            the bundle does not tell.
    """

    name: str
    probability: float | None
    called: bool
    threshold: float | None = None
    sensitivity: str = ""
    specificity: str = ""


@dataclass(frozen=True)
class SeriesFacts:
    """What was said of one series.

    Attributes:
        number: among the study's answers.
        status: ``ok``, ``rejected`` or ``failed``.
        reasons: why it abstains or why there is no answer, in sentences.
        classes: the most probable first; ``names`` in the bundle's order.
        point: how probabilities become a call; None: the bundle is gone.
        n_patients: validation patients that its rates are of.
        bundle: identity of the bundle.
        similar: development scans that are most like it, as the bundle allows.
        same_label: how many of those beside held-out scans had their label, and by chance; None without any.
        has_volume, has_map: whether the viewer can show them.
        feedback: the latest last.
    """

    number: int
    route: str
    status: str
    abstained: bool
    predicted: str
    reasons: tuple[str, ...]
    detail: str
    classes: tuple[ClassFacts, ...]
    names: tuple[str, ...]
    multilabel: bool
    point: OperatingPoint | None
    n_patients: int | None
    novelty: float | None
    bundle: str
    images: int
    similar: tuple[SimilarCase, ...]
    same_label: tuple[float, float] | None
    has_volume: bool
    has_map: bool
    feedback: tuple[Feedback, ...] = field(repr=False)


@dataclass(frozen=True)
class StudyFacts:
    """``history``: what happened to it, from the record, the latest first; names nobody but the page's users."""

    id: str
    study_uid: str
    revision: int
    line: Line = field(repr=False)
    series: tuple[SeriesFacts, ...]
    history: tuple[Mapping[str, object], ...]
    images_here: bool


def study_facts(node: NodeConfig, queue: Queue, study: str) -> StudyFacts | None:
    """Of the present revision; None where there is no such study."""
    shown = line(queue, study)
    if shown is None:
        return None
    with queue.reading() as database:
        uid, revision = database.execute("SELECT study_uid, revision FROM study WHERE id = ?", (study,)).fetchone()
        answers = answering.answers(database, study, revision)
        said = answering.feedback(database, study)
        entries = list(record.entries(database, study))
        gone = database.execute("SELECT 1 FROM instance WHERE study = ? AND file = '' LIMIT 1", (study,)).fetchone()
    here = gone is None
    series = tuple(_series(node, number, answer, revision, said, here) for number, answer in enumerate(answers))
    history = tuple(entry for entry in reversed(entries) if entry["event"] in _HISTORY)
    return StudyFacts(study, uid, revision, shown, series, history, here)


def _detail(facts: Mapping[str, Any]) -> str:
    """Why there is no answer, as a sentence that a page can say where the answer has its parts."""
    reason = whole(facts.get("reason_in_parts")) or facts.get("reason") or ""
    return reason if isinstance(reason, Sentence) else str(reason)


def _series(
    node: NodeConfig, number: int, answer: SeriesAnswer, revision: int, said: Sequence[Feedback], here: bool
) -> SeriesFacts:
    facts: Mapping[str, Any] = answer.facts
    bundle = bundle_record(node, answer.bundle)
    codes = facts.get("because") or ()
    shown = facts.get("similar") or ()
    cases = bundle_cases(node, answer.bundle) if shown else None
    return SeriesFacts(
        number=number,
        route=answer.route,
        status=str(facts.get("status", "")),
        abstained=bool(facts.get("abstained")),
        predicted=str(facts.get("predicted") or ""),
        reasons=tuple(reason_in_words(code) for code in codes),
        detail=_detail(facts),
        classes=_classes(facts, bundle),
        names=tuple(bundle.classes) if bundle else tuple(facts.get("probabilities") or ()),
        multilabel=bool(bundle and bundle.multilabel),
        point=bundle.operating_point if bundle else None,
        n_patients=bundle.chosen_point.n_patients if bundle and bundle.chosen_point else None,
        novelty=facts.get("novelty"),
        bundle=str(facts.get("bundle", "")),
        images=int(facts.get("images") or 0),
        similar=tuple(SimilarCase(**case) for case in shown) if cases else (),
        same_label=cases.same_label if cases else None,
        has_volume=bool(answer.series_uid) and here,
        has_map=bool(answer.map_file) and (node.folder / answer.map_file).is_file() and here,
        feedback=tuple(one for one in said if (one.revision, one.number) == (revision, number)),
    )


def _classes(facts: Mapping[str, Any], bundle: BundleRecord | None) -> tuple[ClassFacts, ...]:
    """Also where there is no answer: a person may know what the network does not."""
    shares: dict[str, float] = facts.get("probabilities") or {}
    names = sorted(bundle.classes if bundle else shares, key=lambda name: -shares.get(name, 0.0))
    called = str(facts.get("predicted") or "").split(";")
    point = bundle.chosen_point if bundle else None
    return tuple(
        ClassFacts(
            name,
            shares.get(name),
            name in called,
            bundle.operating_point.thresholds.get(name) if bundle else None,
            point.sensitivity[name].in_percent if point and name in point.sensitivity else "",
            point.specificity[name].in_percent if point and name in point.specificity else "",
        )
        for name in names
    )


class Volumes:
    """Voxels of received series as NIfTI files: read in a process of its own, under limits, and kept.

    Its methods may be called from any thread; one series is read at a time.
    """

    def __init__(self, node: NodeConfig, queue: Queue) -> None:
        self._node, self._queue, self._lock = node, queue, threading.Lock()
        self._worker = ScanWorker(loads="med_transfer.hospital.pictures")

    def volume(self, study: str, answer: SeriesAnswer) -> Path:
        """The file of a series. Raises ScanError, OutputError."""
        images, bundle = self._queue.instances(study), bundle_record(self._node, answer.bundle)
        path = self._node.folder / volume_file(study, images, answer.series_uid)
        gap_mm = bundle.preprocessing.max_gap_mm if bundle else 0.0
        with self._lock:
            if not path.is_file():
                folder = self._node.folder / "incoming" / study
                self._worker.call(write_volume, folder, answer.series_uid, gap_mm, path, where=f"study {study}")
                if self._queue.deleted(study):  # meanwhile, and with them all that was shown of them
                    path.unlink(missing_ok=True)
                    raise ScanNotFound("the images have been deleted", where=f"study {study}")
        return path

    def close(self) -> None:
        """End the process that reads."""
        self._worker.close()


def answer_of(queue: Queue, study: str, revision: int, number: int) -> SeriesAnswer | None:
    """One answer; None where there is none, or none any more."""
    with queue.reading() as database:
        answers = answering.answers(database, study, revision)
    return answers[number] if 0 <= number < len(answers) else None
