"""The record of one scan's prediction, which inference produces and evaluation reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from med_transfer.errors import NothingDone

Status = Literal["ok", "rejected", "failed"]


@dataclass(frozen=True)
class SimilarCase:
    """A development scan of a bundle that is similar to a new one.

    Attributes:
        number: of the case in the bundle.
        label: its class, or its findings joined by ``;``.
        similarity: cosine similarity of the network's features of the two scans, in [-1, 1].
    """

    number: int
    label: str
    similarity: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one scan, or the reason why there is none.

    Attributes:
        scan: path as the user gave it, relative to the folder or table it came from.
        status: ``ok``; ``rejected`` (geometry verdict); ``failed`` (could not be read or predicted).
        reason: one line; if ``ok``, why there is no fused prediction, what was repaired, and remarks on the scan.
        probabilities: class name to calibrated probability in [0, 1]; empty unless ``ok``.
        fused: fused probabilities by class name; empty without a fusion model, or if its inputs are missing.
        predicted: the network's own class at the bundle's operating point; findings joined by ``;`` if multi-label.
        prediction_set: classes that the network cannot rule out, joined by ``;``; ``{}`` if it rules out all; empty if
            the bundle makes no sets. See :class:`med_transfer.model.calibration.PredictionSets`.
        abstained: the scan is unlike the training data: its novelty is above the bundle's limit, or one of its facts
            is outside the input envelope.
        abstained_because: codes of the reasons, joined by ``;``: ``novelty``, ``outside_<fact>``; ``reason`` says them.
        novelty: share of training scans that are nearer to the training data than this one, in [0, 1].
        seconds: wall time spent on this scan.
        problem: ``reason`` without the scan's path, so that equal problems can be counted; only in memory.
        found: the first part of ``problem``: what was wrong, without what was expected and what to do.
        facts: properties of the scan checked against the input envelope; only in memory.
        similar: the most similar development scans, if the bundle has any to show; only in memory.
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


def exit_code(n_ok: int, n_bad: int) -> int:
    """0 if all scans were predicted, 1 if some were not, 3 if none was; 0 for a shard without scans."""
    return NothingDone.exit_code if n_bad and not n_ok else int(n_bad > 0)
