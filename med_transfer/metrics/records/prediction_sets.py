"""Records of prediction sets in metrics.json."""

from __future__ import annotations

from pydantic import Field

from med_transfer.metrics.records.estimate import Estimate, Record


class ClassSets(Record):
    """Prediction sets for one class.

    Attributes:
        coverage: share of its test scans whose set contains it.
        threshold: probability from which it is in a set; 0 means always.
        n_patients: validation patients that the threshold was learned from.
    """

    coverage: Estimate
    threshold: float
    n_patients: int


class SetMetrics(Record):
    """Coverage and size of prediction sets.

    Attributes:
        target: the requested coverage of each class.
        coverage: share of all true (scan, class) pairs that are in the sets.
        sizes: number of test scans by the size of their set: 0, 1, 2, ...
        right_when_single: share of sets of exactly one class that contain the truth; None for findings.
    """

    target: float
    coverage: Estimate
    classes: dict[str, ClassSets]
    sizes: list[int] = Field(min_length=2)
    right_when_single: Estimate | None = None

    @property
    def mean_size(self) -> float:
        """Mean number of classes in a set."""
        return sum(size * n for size, n in enumerate(self.sizes)) / sum(self.sizes)

    @property
    def short_of_target(self) -> list[str]:
        """Classes whose whole coverage interval lies below the target."""
        limits = {name: class_sets.coverage.interval for name, class_sets in self.classes.items()}
        return [name for name, limit in limits.items() if limit is not None and limit[1] < self.target]
