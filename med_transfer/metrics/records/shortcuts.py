"""What metrics.json says of shortcuts: whether how a scan was made gives its label away."""

from __future__ import annotations

from pydantic import Field

from med_transfer.metrics.records.estimate import Estimate, Record

ACQUISITION_BASELINE = "acquisition"
CHANCE = 0.5


class Shortcuts(Record):
    """How well facts of the acquisition alone tell the classes apart, on development scans.

    The same model on the test scans is the baseline ``acquisition``.

    Attributes:
        n_scans, n_patients: that the model was fitted on.
        macro_auc: cross-validated by patient; null with its reason where it is undefined.
        facts: each fact alone, in the same way; the strongest first.
        constant: facts that are the same in every development scan, or known of none.
        method: in words.
    """

    n_scans: int
    n_patients: int
    macro_auc: Estimate
    facts: dict[str, Estimate] = Field(default_factory=dict)
    constant: list[str] = Field(default_factory=list)
    method: str = ""

    @property
    def strongest(self) -> list[str]:
        """The facts, at most three, that tell the classes apart beyond doubt on their own; else the first of all."""
        sure = [name for name, estimate in self.facts.items() if above_chance(estimate)]
        return sure[:3] or list(self.facts)[:1]


def above_chance(macro_auc: Estimate) -> bool:
    """Whether the whole interval lies above the AUC of guessing."""
    return macro_auc.ci95 is not None and macro_auc.ci95[0] > CHANCE
