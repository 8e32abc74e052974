"""Records of one class against the rest in metrics.json."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from med_transfer.metrics.records.estimate import Estimate, Interval, Record


@dataclass(frozen=True)
class Counts:
    """2 x 2 table of one class against the rest, in scans."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int


class PredictiveValues(Record):
    """PPV and NPV at a stated prevalence, in (0, 1), instead of that of the test scans."""

    prevalence: float
    ppv: Estimate
    npv: Estimate


class SampleSize(Record):
    """Sample size statement for one rate of one class.

    Attributes:
        n_patients: patients with the class for a sensitivity, without it for a specificity.
        value: the rate, in [0, 1].
        ci95: its Wilson interval over these patients.
        wanted_width: requested width of the interval.
        n_needed: patients needed for ``wanted_width`` if the rate stays at ``value``.
        worst_value: the value within ``ci95`` that needs the most patients.
        n_needed_at_worst: patients needed for ``wanted_width`` if the rate is ``worst_value``.
        sentence: the statement in words.
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
        """Width of the present interval."""
        return self.ci95[1] - self.ci95[0]


class ClassMetrics(Record):
    """One class against the rest, at the operating point.

    Attributes:
        n, n_patients: test scans of the class, and their patients.
        counts: 2 x 2 table in scans.
        lr_positive, lr_negative: likelihood ratios of a positive and of a negative call.
        partial_auc: at a specificity of at least 0.8, on McClish's scale.
        at_prevalence: PPV and NPV at the prevalence that the user stated.
        sample_size: by rate, the interval these patients give, and how many a narrower one needs.
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
