"""How the operating point was chosen, and what it reached before the test: as metrics.json and the bundle say it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from med_transfer.evaluation.estimate import Estimate, Record


class ChosenPoint(Record):
    """How the operating point came about, and its rates on the validation scans.

    Attributes:
        rule: of the config: ``argmax``, ``youden``, ``sensitivity``, ``cost`` or ``thresholds``.
        for_class, at_least: the aim of the rule ``sensitivity``; ``for_class`` None means every finding.
        n_scans, n_patients: validation scans, each predicted by a network that had not trained on it.
        n_networks: members of the ensemble; on test scans their probabilities are averaged.
        sensitivity, specificity: by class, at this operating point, on the validation scans. Where the point was chosen
            on them they are rather too high.
        warnings: in sentences.
    """

    rule: Literal["argmax", "youden", "sensitivity", "cost", "thresholds"]
    for_class: str | None = None
    at_least: float | None = None
    n_scans: int
    n_patients: int
    n_networks: int = 1
    sensitivity: dict[str, Estimate]
    specificity: dict[str, Estimate]
    warnings: list[str] = Field(default_factory=list)

    @property
    def aim(self) -> str:
        """The rule in words."""
        if self.rule == "sensitivity":
            whose = f"of {self.for_class}" if self.for_class else "of every finding"
            return f"sensitivity {whose} at least {self.at_least:g}"
        return {
            "argmax": "the most probable class, or findings at 0.5",
            "youden": "greatest sensitivity + specificity - 1 of each class against the rest (Youden 1950)",
            "cost": "least expected cost (Elkan 2001)",
            "thresholds": "thresholds stated before training",
        }[self.rule]
