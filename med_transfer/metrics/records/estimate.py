"""An estimate with its confidence interval and method."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from med_transfer.errors.numbers import whole_percent
from med_transfer.errors.sentence import Text

log = logging.getLogger(__name__)

Interval = tuple[float, float]


class Record(BaseModel):
    """Base class of the records in metrics.json: frozen, and unknown keys are refused.

    ``renamed_keys`` maps old to new names; reading a file of an earlier version logs a warning that states both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)
    renamed_keys: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _take_old_names(cls, values: Any) -> Any:
        old_names = [old for old in cls.renamed_keys if isinstance(values, dict) and old in values]
        for old in old_names:
            log.warning("key %s of %s is now called %s", old, cls.__name__, cls.renamed_keys[old])
        return {cls.renamed_keys.get(key, key): value for key, value in values.items()} if old_names else values


class Estimate(Record):
    """One measure with its 95 % confidence interval.

    Attributes:
        value: None (not 0) if the measure is undefined; ``reason`` then says why.
        ci95: lower and upper limit; None if undefined.
        ci95_cluster: the same over patients, given for rates if patients have several scans.
        method: how value and interval were computed, in words.
        reason: why ``value`` or ``ci95`` is None; else empty.
    """

    value: float | None
    ci95: Interval | None
    ci95_cluster: Interval | None = None
    method: Text
    reason: Text = ""

    @classmethod
    def undefined(cls, reason: str, method: str = "") -> Estimate:
        """Return an estimate without value and interval; ``reason`` says why."""
        return cls(value=None, ci95=None, method=method, reason=reason)

    @property
    def excludes_zero(self) -> int:
        """+1 if the whole interval lies above 0, -1 if below, else 0."""
        if self.ci95 is None:
            return 0
        return int(self.ci95[0] > 0) - int(self.ci95[1] < 0)

    @property
    def interval(self) -> Interval | None:
        """The interval to report: over patients if there is one, since scans of a patient are not independent."""
        return self.ci95_cluster or self.ci95

    @property
    def in_percent(self) -> str:
        """A rate in percent, with the interval to report."""
        if self.value is None:
            return "unknown"
        limits = ", ".join(map(whole_percent, self.interval)) if self.interval else ""
        return whole_percent(self.value) + (f" [{limits}]" if limits else "")
