"""Settings and result of a label budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from med_transfer.errors import UsageError
from med_transfer.labelling.curve_samples import MEASURES, Measure
from med_transfer.labelling.label_forecast import MAX_MULTIPLE, MULTIPLE, Forecast

Way = Literal["linear probe", "fine-tuning"]
WAY_MEANS: dict[Way, str] = {
    "linear probe": (
        "Measured by linear probes on frozen features. Fine-tuning also changes the features and usually performs "
        "better, so read the numbers as an upper limit of what is needed, and the curve as a lower limit."
    ),
    "fine-tuning": "Measured by fine-tuning on subsets of the patients.",
}
MIN_SMALLEST_SUBSET = 5


@dataclass(frozen=True)
class BudgetSettings:
    """Settings of a label budget.

    Attributes:
        target: performance to reach, above 0 and below 1.
        measure: ``sensitivity`` of each class, or ``macro_auc`` over all.
        classes: only these; empty: all.
        finetune: measure by fine-tuning runs instead of linear probes.
        smallest: patients in the smallest subset, of all classes together; None: 5, or two per class if that is more.
        n_sizes: number of subset sizes, in a geometric sequence.
        repeats: number of repeats with other folds and subsets; None: 10 for probes, 1 for fine-tuning.
        multiple: of the present training patients, up to which a curve is extrapolated; above 1, at most 1000.
        n_draws: number of resamples.
        seed: of folds, subsets and resamples.

    Raises:
        UsageError: a value is out of range.
    """

    target: float = 0.85
    measure: Measure = "sensitivity"
    classes: tuple[str, ...] = ()
    finetune: bool = False
    smallest: int | None = None
    n_sizes: int = 6
    repeats: int | None = None
    multiple: float = MULTIPLE
    n_draws: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise UsageError(f"measure {self.measure!r}", expected=f"one of {', '.join(MEASURES)}")
        if self.classes and self.measure != "sensitivity":
            raise UsageError(f"classes with measure {self.measure}", expected="sensitivity, which each class has")
        for name, value, fits, expected in (
            ("target", self.target, 0 < self.target < 1, "above 0 and below 1"),
            ("multiple", self.multiple, 1 < self.multiple <= MAX_MULTIPLE, f"above 1, at most {MAX_MULTIPLE:g}"),
            ("smallest", self.smallest, self.smallest is None or self.smallest >= 2, "at least 2 patients"),
            ("n_sizes", self.n_sizes, self.n_sizes >= 1, "at least 1"),
            ("repeats", self.repeats, self.repeats is None or self.repeats >= 1, "at least 1"),
            ("n_draws", self.n_draws, self.n_draws >= 20, "at least 20"),
        ):
            if not fits:
                raise UsageError(f"{name} {value}", expected=expected)

    @property
    def way(self) -> Way:
        """How the curves are measured."""
        return "fine-tuning" if self.finetune else "linear probe"

    def is_requested(self, curve: str) -> bool:
        """Whether a forecast of this curve was asked for."""
        return not self.classes or curve in self.classes


@dataclass(frozen=True)
class Budget:
    """The result of a label budget.

    Attributes:
        settings: that were asked for.
        forecasts: one per class, or one in all.
        backbone: that the networks start from, with the path of its weights if one was given.
        n_patients, n_scans: in the training folds; test scans were not used.
        n_folds, repeats: of the measurement.
        folder: of budget.json and budget.png.
        failed: scan to the reason why it was not used.
    """

    settings: BudgetSettings
    forecasts: tuple[Forecast, ...]
    backbone: str
    n_patients: int
    n_scans: int
    n_folds: int
    repeats: int
    folder: Path
    failed: dict[str, str] = field(default_factory=dict)
