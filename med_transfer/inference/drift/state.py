"""What a monitor remembers from run to run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from med_transfer.inference.drift.detector import Detector

SCANS_PER_FALSE_ALARM = 100_000  # within n scans a false alarm comes with a chance of at most n in so many, all told


class DriftState(BaseModel):
    """``drift.json``. Names no scan.

    Attributes:
        bundle: hash of what answered.
        scans_per_false_alarm: see ``SCANS_PER_FALSE_ALARM``.
        statuses, predicted, n_abstained: counts of scans; of findings each counts.
        development: share of each class among the development scans, for comparison; no test is made of it.
        quantities: by name what was seen of each.
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
