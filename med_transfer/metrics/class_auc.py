"""Threshold-free discrimination of each class: AUC, partial AUC and average precision, with intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence, joined
from med_transfer.metrics.auc import (
    PARTIAL_FROM,
    auc,
    standardised,
    weighted_average_precision,
    weighted_partial_auc,
)
from med_transfer.metrics.binomial import wilson
from med_transfer.metrics.class_rates import undefined_rate
from med_transfer.metrics.delong import auc_interval
from med_transfer.metrics.intervals import PatientBootstrap, Resampled, newcombe, wider
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.reasons import CLASS_OR_REST_MISSING
from med_transfer.metrics.records.estimate import Estimate, Interval

OUT_OF_FOLD_WIDENING, OF_RATES = 2**0.5, 1.2
_OF_CLASS = Callable[[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def class_auc(predictions: LabelledPredictions, c: int) -> Estimate:
    """Return the AUC of class ``c`` against the rest, with the same kind of interval as the macro AUC.

    Where the variance is 0 or unknown, at an AUC of 0 or 1 or with one patient on a side, only Newcombe's method is
    used.
    """
    truth, score = predictions.truth[:, c], predictions.probabilities[:, c]
    value = auc(truth, score)
    if value is None:
        return Estimate.undefined(_undefined_reason(predictions, c), "one against the rest")
    if np.ptp(score) == 0:
        method = "one against the rest; no spread, because every scan gets the same answer"
        return Estimate(value=value, ci95=(value, value), method=method)
    bound, interval = auc_bound(predictions, c), auc_interval(truth, score, predictions.patients)
    if bound is None or interval is None:
        method = (
            "one against the rest; Newcombe's score method over patients, because DeLong's variance is 0 or unknown"
        )
        return Estimate(value=value, ci95=bound, method=method)
    whose = "Obuchowski's variance over patients" if predictions.clustered else "DeLong's variance"
    method = f"one against the rest; the wider of {whose} (logit scale, Student's t) and Newcombe's score method"
    return Estimate(value=value, ci95=wider(bound, interval), method=method)


def widened(
    estimate: Estimate, predictions: LabelledPredictions, *, of_rates: bool = False, lowest: float = 0.0
) -> Estimate:
    """Widen the interval of an out-of-fold estimate: each half by sqrt(2), or by a fifth for rates.

    Cross-validated patients also train each other's models. Without any signal, each pair of patients contributes the
    same information twice, once from either side, which doubles the variance of an AUC. Rates need less, since their
    limits are wide to begin with. Other estimates are returned unchanged. docs/measured/intervals.md has the measured
    coverage.

    Args:
        estimate: an AUC, a rate, or a difference of two.
        predictions: what it was measured on.
        of_rates: whether the estimate is of rates.
        lowest: lowest possible value; -1 for a difference.
    """
    value, limits = estimate.value, estimate.ci95
    if not predictions.out_of_fold or value is None or limits is None or limits[0] == limits[1]:
        return estimate
    low, high = (value + (OF_RATES if of_rates else OUT_OF_FOLD_WIDENING) * (limit - value) for limit in limits)
    why = Sentence("wider by the root of 2, because cross-validated networks share training patients")
    if of_rates:
        why = Sentence("wider by a fifth, because cross-validated networks share training patients")
    return estimate.model_copy(
        update={"ci95": (max(low, lowest), min(high, 1.0)), "method": joined(estimate.method, why)}
    )


def auc_bound(predictions: LabelledPredictions, c: int, confidence: float = 0.95) -> Interval | None:
    """Return Newcombe's interval of one class's AUC; a patient counts once, however many scans there are."""
    value = auc(predictions.truth[:, c], predictions.probabilities[:, c])
    if value is None:
        return None
    if np.ptp(predictions.probabilities[:, c]) == 0:  # one answer for all scans: 0.5 in any sample
        return value, value
    return newcombe(value, *_patients_on_each_side(predictions, c), confidence)


def average_precision(predictions: LabelledPredictions, c: int, bootstrap: PatientBootstrap) -> Estimate:
    """Return the average precision of class ``c`` with its bootstrap interval.

    Where all draws agree, the interval falls back to Wilson's limits over the patients with the class: the binomial
    interval of Boyd, Eng & Page 2013 (ECML PKDD, LNCS 8190:451) in Wilson's form.
    """
    if not predictions.truth[:, c].any():
        reason = undefined_rate(predictions, c, "sensitivity")
        return Estimate.undefined(reason, "average precision")
    resampled = _resampled(predictions, c, bootstrap, weighted_average_precision)
    n_patients = predictions.patients_among(predictions.truth[:, c])
    if resampled.degenerate:
        method = "average precision; Wilson over the patients with the class, because every bootstrap draw agrees"
        return Estimate(value=resampled.value, ci95=wilson(resampled.value * n_patients, n_patients), method=method)
    return _estimate(resampled, "average precision", bootstrap)


def partial_auc(predictions: LabelledPredictions, c: int, bootstrap: PatientBootstrap) -> Estimate:
    """Return the partial AUC of class ``c`` at a specificity of at least 0.8, on McClish's scale.

    Where all draws agree, the interval falls back to Wilson's limits over the patients of the smaller side, which is
    wide but never empty. This treats the area as a proportion: it is the mean over cases of a share in [0, 1].
    """
    what = f"AUC at specificity {PARTIAL_FROM:g} or more, standardised (McClish 1989)"
    if auc(predictions.truth[:, c], predictions.probabilities[:, c]) is None:
        return Estimate.undefined(_undefined_reason(predictions, c), what)
    resampled = _resampled(predictions, c, bootstrap, weighted_partial_auc)
    if np.ptp(predictions.probabilities[:, c]) == 0:
        method = f"{what}; no spread, because every scan gets the same answer"
        return Estimate(value=resampled.value, ci95=(resampled.value, resampled.value), method=method)
    if not resampled.degenerate:
        return _estimate(resampled, what, bootstrap)
    largest, n = 1 - PARTIAL_FROM, min(_patients_on_each_side(predictions, c))
    area = (2 * resampled.value - 1) * (largest - largest**2 / 2) + largest**2 / 2
    low, high = wilson(area / largest * n, n) or (0.0, 1.0)
    limits = standardised(np.array([low, high]) * largest, largest)
    method = f"{what}; Wilson over the patients of the smaller side, because every bootstrap draw agrees"
    return Estimate(value=resampled.value, ci95=(float(limits[0]), float(limits[1])), method=method)


def _resampled(predictions: LabelledPredictions, c: int, bootstrap: PatientBootstrap, measure: _OF_CLASS) -> Resampled:
    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return measure(predictions.truth[:, c], predictions.probabilities[:, c], weights)

    value = float(bootstrap.observed(statistic))
    return Resampled(value, bootstrap.distribution(statistic), bootstrap.jackknife(statistic))


def _estimate(resampled: Resampled, what: str, bootstrap: PatientBootstrap) -> Estimate:
    interval, kind = resampled.interval()
    method = f"{what}; {bootstrap.described(kind)}"
    return Estimate(
        value=resampled.value, ci95=interval, method=method, reason="" if interval else CLASS_OR_REST_MISSING
    )


def _patients_on_each_side(predictions: LabelledPredictions, c: int) -> tuple[int, int]:
    return predictions.patients_among(predictions.truth[:, c]), predictions.patients_among(~predictions.truth[:, c])


def _undefined_reason(predictions: LabelledPredictions, c: int) -> str:
    """Why one class has no AUC: the reason why its sensitivity or specificity is undefined."""
    rate = "specificity" if predictions.truth[:, c].any() else "sensitivity"
    return undefined_rate(predictions, c, rate)
