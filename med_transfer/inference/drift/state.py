"""State of a drift monitor, kept from run to run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from med_transfer.inference.drift.detector import Detector

SCANS_PER_FALSE_ALARM = 100_000  # over n scans, P(any false alarm) is at most n divided by this


class DriftState(BaseModel):
    """``drift.json``. It names no scan.

    Attributes:
        bundle: identity of the predictor.
        scans_per_false_alarm: see ``SCANS_PER_FALSE_ALARM``.
        statuses, predicted, n_abstained: numbers of scans by status and by predicted class, and of abstentions; a scan
            with several findings counts for each.
        development: share of each class among the development scans, for comparison only; it is not tested.
        quantities: detector of each quantity, by name.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)
    schema_version: int = Field(default=1, alias="schema")
    bundle: str
    scans_per_false_alarm: float = SCANS_PER_FALSE_ALARM
    statuses: dict[str, int] = Field(default_factory=lambda: dict.fromkeys(("ok", "rejected", "failed"), 0))
    predicted: dict[str, int]
    n_abstained: int = 0
    development: dict[str, float] = {}
    quantities: dict[str, Detector]
