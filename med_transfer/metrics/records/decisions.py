"""What metrics.json and the bundle say of the decisions: the operating point, and how often a test set was read."""

from __future__ import annotations

import logging
from typing import Literal

from pydantic import Field

from med_transfer.errors.sentence import Sentence, Text
from med_transfer.metrics.records.estimate import Estimate, Record


class ChosenPoint(Record):
    """How the operating point came about, and its rates on the validation scans.

    Attributes:
        rule: of the config: ``balanced_argmax``, ``argmax``, ``youden``, ``sensitivity``, ``cost`` or ``thresholds``.
        for_class, at_least: the aim of the rule ``sensitivity``; ``for_class`` None means every finding.
        n_scans, n_patients: validation scans, each predicted by a network that had not trained on it.
        n_networks: members of the ensemble; on test scans their probabilities are averaged.
        sensitivity, specificity: by class, at this operating point, on the validation scans. Where the point was chosen
            on them they are rather too high.
        warnings: in sentences.
    """

    rule: Literal["balanced_argmax", "argmax", "youden", "sensitivity", "cost", "thresholds"]
    for_class: str | None = None
    at_least: float | None = None
    n_scans: int
    n_patients: int
    n_networks: int = 1
    sensitivity: dict[str, Estimate]
    specificity: dict[str, Estimate]
    warnings: list[Text] = Field(default_factory=list)

    @property
    def aim(self) -> str:
        """The rule in words."""
        if self.rule == "sensitivity":
            at_least = f"{self.at_least:g}"
            if self.for_class is None:
                return Sentence("sensitivity of every finding at least {at_least}", at_least=at_least)
            return Sentence("sensitivity of {name} at least {at_least}", name=self.for_class, at_least=at_least)
        return {
            "balanced_argmax": Sentence("the class with the strongest evidence, however rare it is"),
            "argmax": Sentence("the most probable class, or findings at 0.5"),
            "youden": Sentence("greatest sensitivity + specificity - 1 of each class against the rest (Youden 1950)"),
            "cost": Sentence("lowest expected cost (Elkan 2001)"),
            "thresholds": Sentence("thresholds stated before training"),
        }[self.rule]


class AccessCounts(Record):
    """How often a network has read the test scans, with this time, and what had been decided then.

    Attributes:
        n: accesses of this test set that are known, with this one.
        own: whether patients of the run's own test set are in it; None where the bundle does not tell.
        n_other_decisions: earlier accesses under other decisions (another lock's hash).
        n_other_operating_points: those of them with another operating point.
        lock_hash: of the decisions that these figures are of; empty for a bundle from before there were locks.
        cohort_hash: of the test set.
    """

    n: int
    own: bool | None
    n_other_decisions: int = 0
    n_other_operating_points: int = 0
    lock_hash: str
    cohort_hash: str

    @property
    def level(self) -> int:
        """Of logging: a warning where something was decided anew since an earlier access."""
        return logging.WARNING if self.n_other_decisions else logging.INFO

    @property
    def sentence(self) -> str:
        """In words."""
        whose = "The run's own test set" if self.own else "The test set"
        if self.n == 1:
            return f"{whose} was read once."
        earlier = "each time with the same decisions"
        if self.n_other_operating_points:
            earlier = f"{self.n_other_operating_points} of the earlier times with a different operating point"
        elif self.n_other_decisions:
            earlier = f"{self.n_other_decisions} of the earlier times with different decisions"
        return f"{whose} was read {self.n} times, {earlier}."
