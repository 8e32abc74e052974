"""Drift monitoring of a node's bundles, by the monitor of ``predict --monitor``, one per bundle.

Each keeps its state in the node's folder, so that it continues after a restart or a rollback.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydantic import ValidationError

from med_transfer.hospital.analysis import Analysis
from med_transfer.hospital.config import NodeConfig
from med_transfer.inference import Predictor
from med_transfer.inference.drift import DriftMonitor
from med_transfer.inference.drift.monitor import STATE_FILE
from med_transfer.inference.drift.state import DriftState
from med_transfer.predictions.record import Prediction

log = logging.getLogger(__name__)


def drift_predictions(analyses: Sequence[Analysis], study_uid: str) -> list[Prediction]:
    """Predictions with PatientID and study UID, by which a monitor counts each patient once; keep in memory only."""
    return [
        replace(one.prediction, patient=str(one.images[0].PatientID) if one.images else "", study_uid=study_uid)
        for one in analyses
    ]


class DriftWatch:
    """Passes predictions to each bundle's drift monitor."""

    def __init__(self, node: NodeConfig) -> None:
        self._node = node
        self._monitors: dict[str, DriftMonitor] = {}

    def observe(self, mark: str, predictor: Predictor, predictions: Sequence[Prediction]) -> None:
        """Count the series of one study for the bundle ``mark``. Errors are only logged: results matter more."""
        try:
            if mark not in self._monitors:
                folder = self._node.drift_folder(mark)
                self._monitors[mark] = DriftMonitor(predictor.record, predictor.identity, folder)
            for prediction in predictions:
                self._monitors[mark].observe(prediction)
            self._monitors[mark].save()
        except Exception as error:
            log.warning("drift of bundle %s is not watched: %s", mark, type(error).__name__)


def drift_states(node: NodeConfig, marks: Iterable[str]) -> dict[str, DriftState]:
    """State of each bundle's monitor, by mark, if it has seen a scan."""
    found = {}
    for mark in marks:
        try:
            found[mark] = DriftState.model_validate_json((node.drift_folder(mark) / STATE_FILE).read_bytes())
        except (OSError, ValidationError):
            continue
    return found
