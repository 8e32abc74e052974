"""The record of one scan's prediction: what the predictor gives and what evaluation and results read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "rejected", "failed"]


@dataclass(frozen=True)
class SimilarCase:
    """A development scan that a bundle shows beside a new one.

    Attributes:
        number: of the case in the bundle.
        label: its class, or its findings joined by ``;``.
        similarity: cosine between the networks' features of the two, in [-1, 1].
    """

    number: int
    label: str
    similarity: float


@dataclass(frozen=True)
class Prediction:
    """One scan, one answer, or the reason why there is none.

    Attributes:
        scan: path as the user gave it, relative to the folder or table it came from.
        status: ``ok``; ``rejected`` (geometry verdict); ``failed`` (could not be read or predicted).
        reason: one line; when ``ok`` why there is no fused prediction, what was repaired, and remarks on the scan.
        probabilities: class name to calibrated probability in [0, 1]; empty unless ``ok``.
        fused: the same with what else is known of the scan; empty without a fusion, or when its inputs are missing.
        predicted: the network's own class at the bundle's operating point; findings joined by ``;`` when multi-label.
        prediction_set: classes that the network cannot rule out, joined by ``;``; ``{}`` when it rules out all; empty
            when the bundle makes no sets. See :class:`med_transfer.model.calibration.PredictionSets`.
        abstained: the scan lies outside what the model was trained on: its novelty is above the bundle's limit, or a
            fact of it outside of the input envelope.
        abstained_because: codes of the reasons, joined by ``;``: ``novelty``, ``outside_<fact>``; ``reason`` says them.
        novelty: share of training scans that lie nearer to the training data than this one, in [0, 1].
        seconds: wall time spent on this scan.
        problem: ``reason`` without the scan's place; equal ones count together. Only in memory.
        found: the first words of ``problem``: what was wrong, without what was expected and what to do.
        facts: of the scan, which the input envelope was asked about; only in memory.
        similar: the development scans that are most like it, where the bundle has some to show; only in memory.
    """

    scan: str
    patient: str = ""
    study_uid: str = ""
    series_uid: str = ""
    status: Status = "ok"
    reason: str = ""
    probabilities: dict[str, float] = field(default_factory=dict)
    predicted: str = ""
    abstained: bool = False
    novelty: float | None = None
    seconds: float = 0.0
    fused: dict[str, float] = field(default_factory=dict)
    prediction_set: str = ""
    problem: str = ""
    found: str = ""
    abstained_because: str = ""
    facts: Mapping[str, str | float] = field(default_factory=dict, repr=False, compare=False)
    similar: tuple[SimilarCase, ...] = field(default=(), compare=False)
