"""Paired comparison of two models on the same scans, by patient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.binomial import clopper_pearson, newcombe_paired
from med_transfer.metrics.class_auc import widened
from med_transfer.metrics.combination import auc_parts, defined_classes, rate_part, rate_parts
from med_transfer.metrics.delong import auc_difference_interval
from med_transfer.metrics.intervals import PatientBootstrap, is_degenerate, percentile_interval, wider
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.rates import weighted_rates
from med_transfer.metrics.reasons import NO_CLASS_WITH_BOTH, SOME_CLASS_MISSING
from med_transfer.metrics.records.estimate import Estimate, Interval

_ABSENT = Estimate.undefined(Sentence("no scan of this class"), Sentence("difference"))

_OWN_LIMITS = Sentence("difference; Newcombe's limits of each AUC, because every bootstrap draw agrees (MOVER)")


@dataclass(frozen=True)
class Difference:
    """First model minus second; each an estimate in [-1, 1].

    Attributes:
        sensitivity: by class.
    """

    balanced_accuracy: Estimate
    macro_auc: Estimate
    sensitivity: dict[str, Estimate]


def paired_difference(
    first: LabelledPredictions, second: LabelledPredictions, bootstrap: PatientBootstrap, confidence: float = 0.95
) -> Difference:
    """Return first minus second on the same patients, so that the difficulty of a patient cancels.

    With few patients, percentile bootstrap intervals are too narrow (docs/measured/intervals.md). Therefore:

    - balanced accuracy: Clopper-Pearson limits of all its rates, combined;
    - macro AUC: the wider of DeLong's interval and percentiles; if every resample agrees, as for AUCs of 1 and 0.5,
      Newcombe's limits of each, combined;
    - sensitivity: Newcombe's interval for pairs if each patient has one scan, else the wider of percentiles and
      Clopper-Pearson limits, combined.

    The first two are widened if a model is out of fold, see :func:`.class_auc.widened`.

    Args:
        first, second: the same scans, truth and patients, with the probabilities of two models.
        bootstrap: bootstrap over the patients.
        confidence: confidence level of balanced accuracy and macro AUC; sensitivities have 95 %.
    """
    widest = first if first.out_of_fold else second
    balanced = widened(_balanced_difference(first, second, confidence), widest, of_rates=True, lowest=-1.0)
    auc = widened(_auc_difference(first, second, bootstrap, confidence), widest, lowest=-1.0)
    return Difference(balanced, auc, _sensitivity_differences(first, second, bootstrap))


def _balanced_difference(first: LabelledPredictions, second: LabelledPredictions, confidence: float) -> Estimate:
    method = Sentence("difference; Clopper-Pearson limits of each rate, combined over patients (MOVER)")
    if not defined_classes(first).any():
        return Estimate.undefined(NO_CLASS_WITH_BOTH, method)
    limits = partial(clopper_pearson, tail=(1 - confidence) / 2)
    ours, theirs = (rate_parts(model, limits, confidence) for model in (first, second))
    n = len(ours.values)
    both = ours.beside(theirs).combined(np.repeat([1 / n, -1 / n], n))
    return Estimate(value=float(ours.values.mean() - theirs.values.mean()), ci95=both, method=method)


def _auc_difference(
    first: LabelledPredictions, second: LabelledPredictions, bootstrap: PatientBootstrap, confidence: float
) -> Estimate:
    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        ours, theirs = (weighted_macro_auc(m.truth, m.probabilities, weights) for m in (first, second))
        return ours - theirs

    value, draws = float(bootstrap.observed(statistic)), bootstrap.distribution(statistic)
    method = Sentence(
        "difference; the wider of DeLong's interval (Student's t) and {bootstrap}",
        bootstrap=bootstrap.described(Sentence("percentile")),
    )
    if not np.isfinite(value):
        return Estimate.undefined(NO_CLASS_WITH_BOTH, method)
    if is_degenerate(draws):
        alike = np.array_equal(rankdata(first.probabilities, axis=0), rankdata(second.probabilities, axis=0))
        limits = percentile_interval(draws) if alike else _from_own_limits(first, second, confidence)
        reason = "" if limits else SOME_CLASS_MISSING
        return Estimate(value=value, ci95=limits, method=method if alike else _OWN_LIMITS, reason=reason)
    by_variance = auc_difference_interval(
        first.truth,
        first.probabilities,
        second.probabilities,
        first.patients,
        multilabel=first.labels.multilabel,
        confidence=confidence,
    )
    if by_variance is None:  # a class with one patient, for which percentiles are uninformative too
        return Estimate(value=value, ci95=None, method=method, reason=SOME_CLASS_MISSING)
    low, high = wider(by_variance, percentile_interval(draws, confidence) or by_variance)
    return Estimate(value=value, ci95=(max(low, -1.0), min(high, 1.0)), method=method)


def _from_own_limits(first: LabelledPredictions, second: LabelledPredictions, confidence: float) -> Interval:
    """Interval from the limits of each macro AUC, as if independent, since the resamples show no correlation."""
    (ours, low, high), (theirs, lower, upper) = (_macro_limits(model, confidence) for model in (first, second))
    down, up = math.hypot(ours - low, upper - theirs), math.hypot(high - ours, theirs - lower)
    return max(ours - theirs - down, -1.0), min(ours - theirs + up, 1.0)


def _macro_limits(model: LabelledPredictions, confidence: float) -> tuple[float, float, float]:
    """Macro AUC, lower and upper limit."""
    parts = auc_parts(model, confidence)
    low, high = parts.combined(np.full(len(parts.values), 1 / len(parts.values)))
    return float(parts.values.mean()), max(low, 0.0), min(high, 1.0)


def _sensitivity_differences(
    first: LabelledPredictions, second: LabelledPredictions, bootstrap: PatientBootstrap
) -> dict[str, Estimate]:
    names = first.labels.names
    if not first.clustered:
        return {
            name: paired_sensitivity(first, second, c) if first.truth[:, c].any() else _ABSENT
            for c, name in enumerate(names)
        }

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        ours, theirs = (weighted_rates(m.truth, m.predicted, weights)["sensitivity"] for m in (first, second))
        return ours - theirs

    values, draws = bootstrap.observed(statistic), bootstrap.distribution(statistic)
    method = Sentence(
        "difference; the wider of {bootstrap} and Clopper-Pearson limits of each rate, combined over patients (MOVER)",
        bootstrap=bootstrap.described(Sentence("percentile")),
    )
    by_class = {name: _of_class(values[c], draws[:, c], method) for c, name in enumerate(names)}
    return {name: _widened_to_exact_limits(found, first, second, c) for c, (name, found) in enumerate(by_class.items())}


def _widened_to_exact_limits(
    found: Estimate, first: LabelledPredictions, second: LabelledPredictions, c: int
) -> Estimate:
    """Widen an interval to combined Clopper-Pearson limits: with few patients there are few distinct resamples."""
    if found.ci95 is None:
        return found
    ours, theirs = (rate_part(model, c, model.truth[:, c], clopper_pearson) for model in (first, second))
    low, high = wider(found.ci95, ours.beside(theirs).combined(np.array([1.0, -1.0])))
    return found.model_copy(update={"ci95": (max(low, -1.0), min(high, 1.0))})


def paired_sensitivity(first: LabelledPredictions, second: LabelledPredictions, c: int) -> Estimate:
    """Return the difference in sensitivity for class ``c``; each patient has one scan, and the class at least one."""
    ours, theirs = (model.predicted[first.truth[:, c], c] for model in (first, second))
    cells = (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)
    interval = newcombe_paired(*(int(cell.sum()) for cell in cells))
    method = Sentence("difference; Newcombe's score interval for pairs")
    return Estimate(value=float(ours.mean() - theirs.mean()), ci95=interval, method=method)


def _of_class(value: float, draws: NDArray[np.float64], method: str) -> Estimate:
    if not np.isfinite(value):
        return _ABSENT
    if is_degenerate(draws):  # an interval of zero width would suggest certainty
        reason = Sentence("every resample agrees: the scans of this class are called alike, or too few")
        return Estimate(value=float(value), ci95=None, method=method, reason=reason)
    interval = percentile_interval(draws)
    reason = "" if interval else SOME_CLASS_MISSING
    return Estimate(value=float(value), ci95=interval, method=method, reason=reason)
