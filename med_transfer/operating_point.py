"""From probabilities to a call: the operating point at which sensitivity and specificity hold."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from med_transfer.errors import ConfigError
from med_transfer.labels import Labels


class OperatingPoint(BaseModel):
    """How probabilities become calls.

    Attributes:
        rule: ``argmax``, the most probable class (one class a scan), or ``threshold``, every finding whose
            probability reaches its threshold (several findings a scan).
        thresholds: finding to probability in [0, 1]; empty for ``argmax``.
        chosen_on: ``fixed`` before training, or on ``validation`` scans; never on the test scans.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["argmax", "threshold"] = "argmax"
    thresholds: dict[str, float] = Field(default_factory=dict)
    chosen_on: Literal["fixed", "validation"] = "fixed"

    @classmethod
    def default(cls, labels: Labels) -> OperatingPoint:
        """The most probable class, or findings at 0.5."""
        if labels.multilabel:
            return cls(rule="threshold", thresholds=dict.fromkeys(labels.names, 0.5))
        return cls()

    def calls(self, probabilities: NDArray[np.float64], labels: Labels) -> NDArray[np.bool_]:
        """Boolean [scan, class] of what is called, from probabilities [scan, class].

        Raises:
            ConfigError: when the rule does not fit the labels, or a finding has no threshold.
        """
        if (self.rule == "threshold") != labels.multilabel:
            found = "several findings a scan" if labels.multilabel else "one class a scan"
            needed = "threshold" if labels.multilabel else "argmax"
            raise ConfigError(
                f"rule {self.rule!r} with labels of {found}", where="operating_point", expected=repr(needed)
            )
        if self.rule == "argmax":
            return np.eye(len(labels), dtype=bool)[probabilities.argmax(axis=1)]
        if missing := [name for name in labels.names if name not in self.thresholds]:
            raise ConfigError(
                f"no threshold for {', '.join(missing)}",
                where="operating_point.thresholds",
                expected="one for every finding",
            )
        return probabilities >= np.array([self.thresholds[name] for name in labels.names])

    def __str__(self) -> str:
        if self.rule == "argmax":
            return "the most probable class"
        if len(set(self.thresholds.values())) == 1:
            return f"every finding with a probability of {next(iter(self.thresholds.values())):g} or more"
        parts = (f"{value:g} ({name})" for name, value in self.thresholds.items())
        return f"every finding with a probability of at least {', '.join(parts)}"
