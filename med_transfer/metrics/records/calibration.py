"""Records of calibration in metrics.json."""

from __future__ import annotations

from pydantic import Field

from med_transfer.metrics.records.estimate import Estimate, Record


class ReliabilityBin(Record):
    """Claims of similar probability: mean claimed probability, observed share, and number of claims."""

    mean_probability: float
    observed: float
    n: int


class BrierDecomposition(Record):
    """The Brier score in parts: reliability - resolution + uncertainty + within_bins.

    Attributes:
        reliability: mean squared distance between claimed and observed; lower is better, 0 is perfect.
        resolution: variance of the observed shares between bins; higher is better, at most ``uncertainty``.
        uncertainty: variance of the outcome, prevalence x (1 - prevalence), which no model changes.
        within_bins: remainder due to binning; 0 if all claims of a bin are equal.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


class ClassCalibration(Record):
    """One class against the rest.

    Attributes:
        brier: mean of (probability - truth)^2.
        ece: expected calibration error of this class's probability, whether called or not.
        slope: calibration slope with a free intercept; 1 is perfect, below 1 the probabilities are too extreme.
        intercept: calibration in the large, in log odds, with the slope fixed at 1; 0 is perfect, above 0 the class is
            more frequent than predicted.
    """

    brier: Estimate
    decomposition: BrierDecomposition
    ece: Estimate
    slope: Estimate
    intercept: Estimate


class Calibration(Record):
    """Calibration overall and by class.

    Attributes:
        brier: see ``brier_by_scan``; 0 is perfect.
        ece: see ``expected_calibration_error``.
        bins: the reliability diagram; empty bins are left out.
        mean_probability: per class, to compare with ``prevalence`` (calibration in the large).
        decomposition: of ``brier``, combined over classes like the score itself.
        slope: common slope of all classes, each with its own intercept.
        intercept: of all findings together; None for exclusive classes, whose probabilities and truth both sum to 1.
        classes: each class against the rest.
    """

    brier: Estimate
    ece: Estimate
    bins: list[ReliabilityBin]
    mean_probability: dict[str, float]
    decomposition: BrierDecomposition | None = None
    slope: Estimate | None = None
    intercept: Estimate | None = None
    classes: dict[str, ClassCalibration] = Field(default_factory=dict)
