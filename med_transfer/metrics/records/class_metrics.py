"""What metrics.json says of one class against the rest."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from med_transfer.metrics.records.estimate import Estimate, Interval, Record


@dataclass(frozen=True)
class Counts:
    """The 2 x 2 table of one class against the rest, in scans."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int


class PredictiveValues(Record):
    """PPV and NPV where the class has another prevalence, in (0, 1), than among the test scans."""

    prevalence: float
    ppv: Estimate
    npv: Estimate


class SampleSize(Record):
    """Of one rate of one class.

    Attributes:
        n_patients: with the class for a sensitivity, without it for a specificity; scans of a patient count once.
        value: of the rate, in [0, 1].
        ci95: its Wilson interval with so many patients.
        wanted_width: that was asked for.
        n_needed: patients for ``wanted_width`` if the rate stays at ``value``.
        worst_value: that value in ``ci95`` which needs most patients.
        n_needed_at_worst: patients for ``wanted_width`` if the rate is ``worst_value``.
        sentence: in words.
    """

    n_patients: int
    value: float
    ci95: Interval
    wanted_width: float
    n_needed: int
    worst_value: float
    n_needed_at_worst: int
    sentence: str

    @property
    def width(self) -> float:
        """Of the interval that there is."""
        return self.ci95[1] - self.ci95[0]


class ClassMetrics(Record):
    """One class against the rest, at the operating point.

    Attributes:
        n, n_patients: test scans of the class, and the patients they come from.
        counts: the 2 x 2 table in scans.
        lr_positive, lr_negative: likelihood ratios of being called so, and of not being called so.
        partial_auc: where the specificity is at least 0.8, on McClish's scale.
        at_prevalence: PPV and NPV at the prevalence that the user stated.
        sample_size: rate to what these patients can show of it, and how many a narrower interval needs.
    """

    n: int
    n_patients: int
    counts: Counts
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    auc: Estimate
    f1: Estimate | None = None
    lr_positive: Estimate | None = None
    lr_negative: Estimate | None = None
    average_precision: Estimate | None = None
    partial_auc: Estimate | None = None
    at_prevalence: PredictiveValues | None = None
    sample_size: dict[str, SampleSize] = Field(default_factory=dict)
