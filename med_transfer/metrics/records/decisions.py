"""Records of decisions in metrics.json and the bundle: the operating point, and how often a test set was read."""

from __future__ import annotations

import logging
from typing import Literal

from pydantic import Field

from med_transfer.errors.sentence import Sentence, Text
from med_transfer.metrics.records.estimate import Estimate, Record

RULES_CHOSEN_ON_VALIDATION = ("youden", "sensitivity")


class ChosenPoint(Record):
    """How the operating point was chosen, and its rates on the validation scans.

    Attributes:
        rule: rule of the config: ``balanced_argmax``, ``argmax``, ``youden``, ``sensitivity``, ``cost`` or
            ``thresholds``.
        for_class, at_least: target of the rule ``sensitivity``; ``for_class`` None means every finding.
        n_scans, n_patients: validation scans, each predicted by a network that had not trained on it.
        n_networks: members of the ensemble, whose probabilities are averaged on test scans.
        sensitivity, specificity: by class, at this operating point, on the validation scans; optimistic if the point
            was chosen on them.
        warnings: warnings as sentences.
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
    def optimistic(self) -> bool:
        """Whether the point was chosen on the scans that its rates are of."""
        return self.rule in RULES_CHOSEN_ON_VALIDATION

    @property
    def aim(self) -> str:
        """The rule in words."""
        if self.rule == "sensitivity":
            at_least = f"{100 * (self.at_least or 0):g} %"
            if self.for_class is None:
                return Sentence("sensitivity of every finding at least {at_least}", at_least=at_least)
            return Sentence("sensitivity of {name} at least {at_least}", name=self.for_class, at_least=at_least)
        return {
            "balanced_argmax": Sentence("the class with the strongest evidence, however rare it is"),
            "argmax": Sentence("the most probable class, or findings at 0.5"),
            "youden": Sentence("greatest sensitivity + specificity − 1 of each class against the rest (Youden 1950)"),
            "cost": Sentence("lowest expected cost (Elkan 2001)"),
            "thresholds": Sentence("thresholds stated before training"),
        }[self.rule]


class AccessCounts(Record):
    """How often a network has read the test scans, including this time, and with which decisions.

    Attributes:
        n: number of known accesses to this test set, including this one.
        own: whether it contains patients or scans of the run's own test set, be it a single one; None if unknown.
        all_own: whether it contains no others; of meaning only with ``own``.
        n_other_decisions: earlier accesses with other decisions (another lock hash).
        n_other_operating_points: those of them with another operating point.
        lock_hash: lock hash of the decisions behind these results; empty for a bundle older than locks.
        cohort_hash: hash of the test set.
    """

    n: int
    own: bool | None
    all_own: bool = True
    n_other_decisions: int = 0
    n_other_operating_points: int = 0
    lock_hash: str
    cohort_hash: str

    @property
    def level(self) -> int:
        """Logging level: a warning if a decision has changed since an earlier access."""
        return logging.WARNING if self.n_other_decisions else logging.INFO

    @property
    def sentence(self) -> str:
        """The access counts in words."""
        read = "The test set was read"
        if self.own:
            partly = "Scans of the run's own test set, among others, were read"
            read = "The run's own test set was read" if self.all_own else partly
        if self.n == 1:
            return f"{read} once."
        earlier = "each time with the same decisions"
        if self.n_other_operating_points:
            earlier = f"{self.n_other_operating_points} of the earlier times with a different operating point"
        elif self.n_other_decisions:
            earlier = f"{self.n_other_decisions} of the earlier times with different decisions"
        return f"{read} {self.n} times, {earlier}."
