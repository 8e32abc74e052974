"""An estimate: a number, its uncertainty, and how both were found."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from med_transfer.errors.numbers import whole_percent
from med_transfer.errors.sentence import Text

log = logging.getLogger(__name__)

Interval = tuple[float, float]


class Record(BaseModel):
    """Base of everything in metrics.json: unknown keys are refused, values do not change.

    ``renamed_keys`` holds old name to new name; a file of an earlier version is read with a warning that tells both.
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
        value: None when the measure is undefined (never 0 in its place); ``reason`` then says why.
        ci95: lower and upper limit; None when there is none to give.
        ci95_cluster: the same over patients, given for rates when patients have several scans; ``method`` says how.
        method: how value and interval were found, in words.
        reason: why ``value`` is None, or why ``ci95`` is; else empty.
    """

    value: float | None
    ci95: Interval | None
    ci95_cluster: Interval | None = None
    method: Text
    reason: Text = ""

    @property
    def excludes_zero(self) -> int:
        """+1 when the whole interval lies above 0, -1 when below, else 0."""
        if self.ci95 is None:
            return 0
        return int(self.ci95[0] > 0) - int(self.ci95[1] < 0)

    @property
    def interval(self) -> Interval | None:
        """The one that holds: over patients where there is one, since the scans of a patient are not independent."""
        return self.ci95_cluster or self.ci95

    @property
    def in_percent(self) -> str:
        """A rate in words, with the interval that holds."""
        if self.value is None:
            return "unknown"
        limits = ", ".join(map(whole_percent, self.interval)) if self.interval else ""
        return whole_percent(self.value) + (f" [{limits}]" if limits else "")
