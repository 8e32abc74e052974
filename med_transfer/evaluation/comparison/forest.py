"""A forest plot of differences as rows of a page: one common axis, one small drawing per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from med_transfer.evaluation.comparison.compare import Comparison
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.page.language import ENGLISH, Translator

_STEPS = (0.02, 0.05, 0.1, 0.2, 0.25, 0.5)


@dataclass(frozen=True)
class Row:
    """A run's difference; value and limits as positions along the axis in [0, 1]."""

    run: str
    estimate: Estimate
    at: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Group:
    """One measure for all runs."""

    measure: str
    rows: tuple[Row, ...]

    @property
    def reason(self) -> str:
        """Why none of the runs has an interval, if all have the same reason; else empty."""
        reasons = {row.estimate.reason for row in self.rows}
        return reasons.pop() if len(reasons) == 1 else ""


@dataclass(frozen=True)
class Forest:
    """Groups of rows over an axis from ``-limit`` to ``limit``.

    Attributes:
        ticks: (position along the axis in [0, 1], value).
        margin_at: position of minus the margin; None without a margin.
    """

    groups: tuple[Group, ...]
    limit: float
    ticks: tuple[tuple[float, float], ...]
    margin_at: float | None = None


def forest(comparisons: Sequence[Comparison], names: Sequence[str], t: Translator = ENGLISH) -> Forest:
    """Return the plot of macro AUC, balanced accuracy and each class's sensitivity, run minus reference.

    Args:
        comparisons: the reference and the other runs.
        names: names of the runs on the page.
        t: translator.
    """
    pairs = [
        (name, comparison) for name, comparison in zip(names, comparisons, strict=True) if not comparison.is_reference
    ]
    measures: dict[str, list[tuple[str, Estimate]]] = {}
    for name, comparison in pairs:
        for measure, estimate in differences(comparison, t).items():
            measures.setdefault(measure, []).append((name, estimate))
    estimates = [estimate for rows in measures.values() for _, estimate in rows]
    margin = comparisons[0].margin
    limit, step = _axis(estimates, margin or 0)
    groups = tuple(
        Group(measure, tuple(_row(name, estimate, limit) for name, estimate in rows))
        for measure, rows in measures.items()
    )
    n = round(limit / step)
    ticks = tuple((0.5 + k * step / limit / 2, k * step) for k in range(-n, n + 1))
    return Forest(groups, limit, ticks, None if margin is None else 0.5 - margin / limit / 2)


def differences(comparison: Comparison, t: Translator = ENGLISH) -> dict[str, Estimate]:
    """Return the differences of a run by name of the measure; empty for the reference."""
    overall = {t("Macro AUC"): comparison.macro_auc, t("Balanced accuracy"): comparison.balanced_sensitivity}
    defined = {name: estimate for name, estimate in overall.items() if estimate is not None}
    return defined | {
        t("Sensitivity, {name}", name=name): estimate for name, estimate in comparison.sensitivity.items()
    }


def _axis(estimates: Sequence[Estimate], margin: float) -> tuple[float, float]:
    """Half the width of an axis that contains every interval and the margin, and the distance between ticks."""
    values = [
        abs(value) for estimate in estimates for value in (estimate.value, *(estimate.ci95 or ())) if value is not None
    ]
    largest = max([*values, margin, 0.01])
    step = next((step for step in _STEPS if largest <= 3 * step), _STEPS[-1])
    return math.ceil(round(largest / step, 9)) * step, step


def _row(name: str, estimate: Estimate, limit: float) -> Row:
    def share(value: float | None) -> float | None:
        return None if value is None else 0.5 + value / limit / 2

    low, high = estimate.ci95 or (None, None)
    return Row(name, estimate, share(estimate.value), share(low), share(high))
