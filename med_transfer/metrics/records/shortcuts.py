"""Records of shortcuts in metrics.json: whether the acquisition of a scan predicts its label."""

from __future__ import annotations

from pydantic import Field

from med_transfer.metrics.records.estimate import Estimate, Record

ACQUISITION_BASELINE = "acquisition"
CHANCE = 0.5


class Shortcuts(Record):
    """How well acquisition facts alone predict the class of development scans.

    The same model on the test scans is the baseline ``acquisition``.

    Attributes:
        n_scans, n_patients: scans and patients that the model was fitted on.
        macro_auc: macro AUC of all facts together, cross-validated by patient.
        facts: macro AUC of each fact alone, strongest first.
        constant: facts that do not vary between the development scans.
        method: method in words.
    """

    n_scans: int
    n_patients: int
    macro_auc: Estimate
    facts: dict[str, Estimate] = Field(default_factory=dict)
    constant: list[str] = Field(default_factory=list)
    method: str = ""

    @property
    def strongest(self) -> list[str]:
        """Up to three facts that are above chance on their own; if there are none, the strongest fact."""
        sure = [name for name, estimate in self.facts.items() if above_chance(estimate)]
        return sure[:3] or list(self.facts)[:1]


def above_chance(macro_auc: Estimate) -> bool:
    """Whether the whole interval lies above the AUC of chance, 0.5."""
    return macro_auc.ci95 is not None and macro_auc.ci95[0] > CHANCE
