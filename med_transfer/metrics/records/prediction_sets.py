"""What metrics.json says of prediction sets."""

from __future__ import annotations

from pydantic import Field

from med_transfer.metrics.records.estimate import Estimate, Record


class ClassSets(Record):
    """One class.

    Attributes:
        coverage: share of its test scans whose set holds it.
        threshold: probability from which on it is in a set; 0: always.
        n_patients: validation patients that the threshold was learned from.
    """

    coverage: Estimate
    threshold: float
    n_patients: int


class SetMetrics(Record):
    """Attributes:
    target: the share that was asked, of each class by itself.
    coverage: of all classes together: share of true (scan, class) pairs in the sets.
    sizes: number of test scans by how many classes their set holds: none, one, two, ...
    right_when_single: share of the sets of one class that hold the truth, one class a scan; None for findings.
    """

    target: float
    coverage: Estimate
    classes: dict[str, ClassSets]
    sizes: list[int] = Field(min_length=2)
    right_when_single: Estimate | None = None

    @property
    def mean_size(self) -> float:
        """Classes in a set, on average."""
        return sum(size * n for size, n in enumerate(self.sizes)) / sum(self.sizes)

    @property
    def short_of_target(self) -> list[str]:
        """Classes whose whole interval lies below what was asked."""
        limits = {name: class_sets.coverage.interval for name, class_sets in self.classes.items()}
        return [name for name, limit in limits.items() if limit is not None and limit[1] < self.target]
