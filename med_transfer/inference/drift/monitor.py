"""Drift monitoring of a stream of scans, against the development scans and against earlier scans of the stream.

Compared with the development scans: novelty, and the share of scans outside of the input envelope. A bundle stores no
more than that about them, and a site's class prevalence may differ from theirs without being a fault. Compared with all
scans since monitoring began: every number of the envelope, the probability of each class, and the share of scans
without a prediction. State and figures are kept in ``drift.json``; ``drift.prom`` has the figures for Prometheus.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from med_transfer.atomic import write_text
from med_transfer.bundle import BundleRecord
from med_transfer.errors.numbers import significant
from med_transfer.inference.drift.detector import Detector
from med_transfer.inference.drift.prometheus import exposition
from med_transfer.inference.drift.state import SCANS_PER_FALSE_ALARM, DriftState
from med_transfer.predictions.record import Prediction

log = logging.getLogger(__name__)

STATE_FILE, METRICS_FILE = "drift.json", "drift.prom"
NOVELTY, OUTSIDE, UNUSABLE = "novelty", "outside", "unusable"
_SAVE_SECONDS, _RECENT_PATIENTS = 10.0, 100
_RANKS = 101  # novelty is a rank in steps of 1/101
_LOGITS = np.linspace(-8.0, 8.0, 49)
_BINS_OF_A_FACT = 48
_VALIDATION = 5  # the novelty of a single network is ranked against about every fifth development scan
_ZERO_OR_ONE = (0.5,)


class DriftMonitor:
    """Monitors predictions as they are made; resumes from a state of the same bundle in the folder.

    Args:
        record: record of the bundle.
        identity: identity of the predictor.
        folder: where ``drift.json`` and ``drift.prom`` are written.

    Raises:
        OutputError: by :meth:`observe` and :meth:`save`, if these files cannot be written.
    """

    def __init__(self, record: BundleRecord, identity: str, folder: Path) -> None:
        self._record, self._folder, self._saved = record, folder, time.monotonic()
        self._recent: deque[str] = deque(maxlen=_RECENT_PATIENTS)  # in memory only: drift.json holds no names
        self._identity = identity

    @cached_property
    def state(self) -> DriftState:
        """The state so far, read when first needed: a run begins to observe once no other writes to its folder."""
        return _read(self._folder / STATE_FILE, self._identity) or _initial_state(self._record, self._identity)

    def observe(self, prediction: Prediction) -> None:
        """Count one scan, log a warning for each quantity that it shows to have drifted, and save now and then."""
        self._count(prediction)
        if self._is_known(prediction):
            return
        n_scans = sum(self.state.statuses.values())
        for number, (name, value) in enumerate(self._values(prediction)):
            detector = self.state.quantities[name]
            if detector.add(value, np.random.default_rng([n_scans, number])):  # reproducible alarms
                log.warning("moved: %s", _sentence(name, detector))
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write both files, each whole or not at all."""
        self._saved = time.monotonic()
        write_text(self._folder / STATE_FILE, self.state.model_dump_json() + "\n")
        write_text(self._folder / METRICS_FILE, exposition({"": self.state}))

    @property
    def moved(self) -> dict[str, str]:
        """A sentence about each quantity that has raised an alarm, by its name."""
        return {name: _sentence(name, one) for name, one in self.state.quantities.items() if one.alarms}

    def _count(self, prediction: Prediction) -> None:
        self.state.statuses[prediction.status] += 1
        self.state.n_abstained += prediction.abstained
        for name in prediction.predicted.split(";"):
            if name in self.state.predicted:
                self.state.predicted[name] += 1

    def _is_known(self, prediction: Prediction) -> bool:
        """Whether it is another scan of a recent patient or study; such scans are alike and would look like drift."""
        name = prediction.patient or prediction.study_uid
        if not name:
            return False
        is_known = name in self._recent
        self._recent.append(name)
        return is_known

    def _values(self, prediction: Prediction) -> Iterator[tuple[str, float]]:
        known, facts = self.state.quantities, prediction.facts
        yield UNUSABLE, float(prediction.status != "ok")
        if prediction.status != "ok":
            return
        if prediction.novelty is not None:
            yield NOVELTY, prediction.novelty
        if OUTSIDE in known:
            yield OUTSIDE, float(bool(self._record.input_envelope.outside(facts)))
        yield from ((name, float(facts[name])) for name in self._record.input_envelope.numbers if name in facts)
        for name, probability in prediction.probabilities.items():
            yield f"p_{name}", probability


def _initial_state(record: BundleRecord, identity: str) -> DriftState:
    envelope = record.input_envelope
    n_quantities = 2 + (envelope.false_alarms is not None) + len(envelope.numbers) + len(record.classes)
    limit = float(SCANS_PER_FALSE_ALARM * n_quantities)
    quantities = {
        UNUSABLE: Detector.of(_ZERO_OR_ONE, limit=limit),
        NOVELTY: Detector.of([(rank + 0.5) / _RANKS for rank in range(_RANKS)], _ranked(record), limit=limit),
    }
    if envelope.false_alarms is not None:
        n_outside = math.ceil(envelope.false_alarms * envelope.n_scans)
        reference = [float(number < n_outside) for number in range(envelope.n_scans)]
        quantities[OUTSIDE] = Detector.of(_ZERO_OR_ONE, reference, limit=limit)
    for name, (low, high) in envelope.numbers.items():
        edges = np.linspace(low - (high - low), high + (high - low), _BINS_OF_A_FACT + 1)
        quantities[name] = Detector.of(edges.tolist(), two_sided=True, limit=limit)
    for name in record.classes:
        quantities[f"p_{name}"] = Detector.of((1 / (1 + np.exp(-_LOGITS))).tolist(), two_sided=True, limit=limit)
    return DriftState(
        bundle=identity,
        predicted=dict.fromkeys(record.classes, 0),
        development=record.development.prevalence if record.development else {},
        quantities=quantities,
    )


def _ranked(record: BundleRecord) -> list[float]:
    """Novelty ranks of the reference scans: evenly spread, by the definition of a rank."""
    n_scans = record.input_envelope.n_scans
    n_ranked = max(1, n_scans if record.n_fold_models > 1 else n_scans // _VALIDATION)
    return [math.ceil((_RANKS - 1) * (number + 0.5) / n_ranked) / _RANKS for number in range(n_ranked)]


def _read(path: Path, identity: str) -> DriftState | None:
    if not path.exists():
        return None
    try:
        state = DriftState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        log.warning("%s: cannot be read (%s); monitoring starts again", path, type(error).__name__)
        return None
    if state.bundle != identity:
        log.warning("%s: of another bundle; monitoring starts again", path)
        return None
    return state


def _sentence(name: str, detector: Detector) -> str:
    n, how = detector.alarms[-1]
    return (
        f"{name} {how}, seen at its value number {n}: the mean of all is {significant(detector.mean, 3)}, of the last "
        f"ones {significant(detector.recent, 3)} ({detector.n_alarms} alarm{'s' if detector.n_alarms > 1 else ''})"
    )
