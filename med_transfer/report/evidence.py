"""Everything that is known when a report is written: what its sections may speak of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import sentence
from med_transfer.report.run_summary import LearningCurve, MapChecks, Miss, RunSummary


@dataclass(frozen=True)
class Evidence:
    """What a section is given. New fields have defaults: a section that lacks what it speaks of says nothing.

    Attributes:
        metrics: as in metrics.json.
        run: what was asked, on whom, with what.
        curves: one for each member of the ensemble.
        misses: as they are shown, with maps.
        map_checks: how far these maps can be trusted.
        truth, probabilities: boolean and in [0, 1], [scan, class] of the scans behind ``metrics``, or None.
        patients: of the same scans, or empty.
    """

    metrics: Metrics
    run: RunSummary
    curves: Sequence[LearningCurve] = ()
    misses: Sequence[Miss] = ()
    map_checks: MapChecks | None = None
    truth: NDArray[np.bool_] | None = None
    probabilities: NDArray[np.floating] | None = None
    patients: Sequence[str] = ()

    @property
    def clustered(self) -> bool:
        """Whether some patients have several scans."""
        return self.metrics.n_patients < self.metrics.n_scans

    @property
    def n_asked(self) -> int:
        """Scans that an answer was wanted of: the cohort table's, or those with and without a prediction."""
        flow = self.run.flow
        return flow.found.scans if flow else self.metrics.n_scans + self.metrics.failed.n

    @property
    def model(self) -> str:
        """What the main figures are of: ``fused model`` or ``network``."""
        fusion = self.metrics.fusion
        return sentence("fused model") if fusion and fusion.report == "fused" else sentence("network")
