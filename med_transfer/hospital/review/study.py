"""What the page shows of one study: the answer on each series, how reliable it is, and the study's history."""

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
        name: name of the class.
        probability: calibrated probability in [0, 1]; None if there is no answer.
        called: whether the class was predicted.
        threshold: threshold of the operating point; None if it has none for this class.
        sensitivity, specificity: on validation patients at this operating point, with 95 % interval, as text; empty if
            not in the bundle.
    """

    name: str
    probability: float | None
    called: bool
    threshold: float | None = None
    sensitivity: str = ""
    specificity: str = ""


@dataclass(frozen=True)
class SeriesFacts:
    """The answer on one series.

    Attributes:
        number: index among the study's answers.
        route: route of the bundle; empty if there are no routes.
        status: ``ok``, ``rejected`` or ``failed``.
        abstained, predicted: whether it abstains, and the predicted class, or findings joined by ``;``.
        reasons: why it abstains or why there is no answer, as sentences.
        detail: why there is no answer, as a sentence; empty if there is one.
        classes: classes, the most probable first.
        names: names of the classes in the bundle's order.
        multilabel: whether the bundle can find several classes in a scan.
        point: operating point; None if the bundle is gone.
        n_patients: number of validation patients behind the rates; None if not in the bundle.
        novelty: in [0, 1]; None if there is no answer.
        bundle: identity of the bundle.
        images: number of images.
        similar: the most similar development scans, if the bundle contains any.
        same_label: share of similar cases of held-out scans that had the same label, and the share expected by chance;
            None without similar cases.
        has_volume, has_map: whether the viewer can show them.
        feedback: feedback on the answer, the latest last.
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

    @property
    def is_called(self) -> bool:
        """Whether a class was called, or of a multi-label bundle that there is no finding."""
        return self.status == "ok" and bool(self.predicted or self.multilabel)


@dataclass(frozen=True)
class StudyFacts:
    """One study; ``history`` has its entries in the record, the latest first, and names only users of the page."""

    id: str
    study_uid: str
    revision: int
    line: Line = field(repr=False)
    series: tuple[SeriesFacts, ...]
    history: tuple[Mapping[str, object], ...]
    images_here: bool


def study_facts(node: NodeConfig, queue: Queue, study: str) -> StudyFacts | None:
    """Facts of the present revision of a study; None if there is no such study."""
    shown = line(queue, study)
    if shown is None:
        return None
    with queue.reading() as database:
        uid, revision = database.execute("SELECT study_uid, revision FROM study WHERE id = ?", (study,)).fetchone()
        answers = answering.answers(database, study, revision)
        judgements = answering.feedback(database, study)
        entries = list(record.entries(database, study))
        gone = database.execute("SELECT 1 FROM instance WHERE study = ? AND file = '' LIMIT 1", (study,)).fetchone()
    here = gone is None
    series = tuple(_series(node, number, answer, revision, judgements, here) for number, answer in enumerate(answers))
    history = tuple(entry for entry in reversed(entries) if entry["event"] in _HISTORY)
    return StudyFacts(study, uid, revision, shown, series, history, here)


def similar_cases_of(answer: SeriesAnswer) -> tuple[SimilarCase, ...]:
    """The most similar development scans according to an answer."""
    cases: Any = answer.facts.get("similar") or ()
    return tuple(SimilarCase(**case) for case in cases)


def _detail(facts: Mapping[str, Any]) -> str:
    """Why there is no answer, as a translatable Sentence if its parts were stored, else as text."""
    reason = whole(facts.get("reason_in_parts")) or facts.get("reason") or ""
    return reason if isinstance(reason, Sentence) else str(reason)


def _series(
    node: NodeConfig, number: int, answer: SeriesAnswer, revision: int, judgements: Sequence[Feedback], here: bool
) -> SeriesFacts:
    facts: Mapping[str, Any] = answer.facts
    bundle = bundle_record(node, answer.bundle)
    codes = facts.get("because") or ()
    shown = similar_cases_of(answer)
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
        similar=shown if cases else (),
        same_label=cases.same_label if cases else None,
        has_volume=bool(answer.series_uid) and here,
        has_map=bool(answer.map_file) and (node.folder / answer.map_file).is_file() and here,
        feedback=tuple(one for one in judgements if (one.revision, one.number) == (revision, number)),
    )


def _classes(facts: Mapping[str, Any], bundle: BundleRecord | None) -> tuple[ClassFacts, ...]:
    """Classes of a series, even if there is no answer, so that a reviewer can label it."""
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
    """Voxels of received series as NIfTI files: read in a separate process, under limits, and cached on disk.

    Methods may be called from any thread; one series is read at a time.
    """

    def __init__(self, node: NodeConfig, queue: Queue) -> None:
        self._node, self._queue, self._lock = node, queue, threading.Lock()
        self._worker = ScanWorker(loads="med_transfer.hospital.pictures")

    def volume(self, study: str, answer: SeriesAnswer) -> Path:
        """File of a series, read if necessary. Raises ScanError, OutputError."""
        images, bundle = self._queue.instances(study), bundle_record(self._node, answer.bundle)
        path = self._node.folder / volume_file(study, images, answer.series_uid)
        gap_mm = bundle.preprocessing.max_gap_mm if bundle else 0.0
        with self._lock:
            if not path.is_file():
                folder = self._node.folder / "incoming" / study
                self._worker.call(write_volume, folder, answer.series_uid, gap_mm, path, where=f"study {study}")
                if self._queue.deleted(study):  # meanwhile, so the file must go, too
                    path.unlink(missing_ok=True)
                    raise ScanNotFound("the images have been deleted", where=f"study {study}")
        return path

    def close(self) -> None:
        """Stop the reader process."""
        self._worker.close()


def answer_of(queue: Queue, study: str, revision: int, number: int) -> SeriesAnswer | None:
    """One answer of a study; None if there is no such revision or number."""
    with queue.reading() as database:
        answers = answering.answers(database, study, revision)
    return answers[number] if 0 <= number < len(answers) else None
