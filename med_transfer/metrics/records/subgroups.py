"""Records of subgroups in metrics.json: measures of each, how they were formed, and whether they differ."""

from __future__ import annotations

from pydantic import Field

from med_transfer.errors.sentence import Text
from med_transfer.metrics.records.estimate import Estimate, Record

ALPHA = 0.05


class SubgroupTest(Record):
    """Test whether the network detects the classes equally well in the subgroups of one column.

    Attributes:
        how: how values became subgroups.
        same_as: columns that divide the scans in the same way.
        compared: the subgroups with enough patients, which are tested.
        fewest_patients: number of patients of the smallest of them.
        too_small: subgroups with too few patients, which have no measures.
        statistic, p_value: of the permutation test; None if undefined, and ``reason`` says why.
        p_holm: the p-value corrected for the number of columns tested.
        method: statistic, permutation and seed, in words.
    """

    how: Text
    same_as: list[str] = Field(default_factory=list)
    compared: list[str] = Field(default_factory=list)
    fewest_patients: int = 0
    too_small: list[str] = Field(default_factory=list)
    statistic: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    method: str = ""
    reason: Text = ""

    @property
    def differ(self) -> bool:
        """Whether the corrected p-value shows a difference."""
        return self.p_holm is not None and self.p_holm < ALPHA


class Subgroup(Record):
    """Performance in one subgroup; measures are null if it has too few patients.

    Attributes:
        absent: classes that balanced accuracy is without, because it is undefined for them in this subgroup.
    """

    n: int
    n_patients: int
    balanced_accuracy: Estimate
    macro_auc: Estimate
    sensitivity: dict[str, Estimate]
    absent: list[str] = Field(default_factory=list)
