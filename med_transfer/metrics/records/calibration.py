"""What metrics.json says of calibration."""

from __future__ import annotations

from pydantic import Field

from med_transfer.metrics.records.estimate import Estimate, Record


class ReliabilityBin(Record):
    """Scans of similar probability: what was claimed, what came true, in how many."""

    mean_probability: float
    observed: float
    n: int


class BrierDecomposition(Record):
    """The Brier score in parts: reliability - resolution + uncertainty + within_bins.

    Attributes:
        reliability: how far claims lie from what came true, squared; 0 is perfect, less is better.
        resolution: how far what came true differs between claims; more is better, at most ``uncertainty``.
        uncertainty: of the outcome itself, prevalence x (1 - prevalence); no model changes it.
        within_bins: what grouping claims in bins leaves over; 0 where all claims of a bin are equal.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


class ClassCalibration(Record):
    """One class against the rest.

    Attributes:
        brier: mean of (probability - truth)^2.
        ece: of the probability of this class, called or not.
        slope: 1 is perfect; below 1 the probabilities are too extreme. With a free intercept.
        intercept: calibration in the large, 0 is perfect; above 0 the class is more frequent than predicted. Log odds,
            with the slope held at 1.
    """

    brier: Estimate
    decomposition: BrierDecomposition
    ece: Estimate
    slope: Estimate
    intercept: Estimate


class Calibration(Record):
    """Attributes:
    brier: see ``brier_by_scan``; 0 is perfect.
    ece: see ``expected_calibration_error``.
    bins: the reliability diagram; empty bins are left out.
    mean_probability: per class, to be held against ``prevalence`` (calibration in the large).
    decomposition: of ``brier``, combined over classes as the score itself.
    slope: of all classes together: the power of the probabilities that fits best, each class with its own intercept.
    intercept: of all findings together; None for one class a scan, whose probabilities and truth both sum to 1.
    classes: each against the rest.
    """

    brier: Estimate
    ece: Estimate
    bins: list[ReliabilityBin]
    mean_probability: dict[str, float]
    decomposition: BrierDecomposition | None = None
    slope: Estimate | None = None
    intercept: Estimate | None = None
    classes: dict[str, ClassCalibration] = Field(default_factory=dict)
