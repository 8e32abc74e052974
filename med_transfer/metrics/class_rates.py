"""Rates of each class at the operating point, with intervals over scans and over patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.numbers import whole_percent
from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.binomial import BINOMIAL, BINOMIAL_NAMES, clopper_pearson, wilson
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.effective_trials import effective_trials
from med_transfer.metrics.intervals import PatientBootstrap, Resampled
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.predictive_values import (
    EffectiveCounts,
    PredictiveValue,
    Sign,
    likelihood_ratio,
    predictive_value,
    predictive_value_in,
)
from med_transfer.metrics.rates import (
    CELLS,
    Cells,
    count,
    f1,
    f1_in,
    likelihood_ratio_in,
    rate_of,
    share,
    weighted_cells,
)
from med_transfer.metrics.reasons import CLASS_MISSING, all_called, no_case, no_other, none_called
from med_transfer.metrics.records.class_metrics import Counts, PredictiveValues
from med_transfer.metrics.records.estimate import Estimate, Interval

_MAX_INFINITE_SHARE = 0.01  # a likelihood ratio with a greater share of infinite draws is not resampled


@dataclass(frozen=True)
class ResampledCells:
    """2 x 2 tables of all classes, each cell [row, class]: of the sample, of the draws, and of the jackknife."""

    sample: Cells
    draws: Cells
    jackknife: Cells

    @classmethod
    def of(cls, predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> ResampledCells:
        """Compute the cells of the sample and of every resample."""

        def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            cells = weighted_cells(predictions.truth, predictions.predicted, weights)
            return np.stack([cells[name] for name in CELLS], axis=1)

        sample = statistic(np.ones((1, len(predictions))))
        tables = (sample, bootstrap.distribution(statistic), bootstrap.jackknife(statistic))
        return cls(*({name: table[:, row] for row, name in enumerate(CELLS)} for table in tables))

    def resampled(self, c: int, measure: Callable[[Cells], NDArray[np.float64]]) -> Resampled:
        """Return a measure of class ``c`` in the sample and in every resample."""
        value, draws, jackknife = (measure(cells)[:, c] for cells in (self.sample, self.draws, self.jackknife))
        return Resampled(float(value[0]), draws, jackknife)


def sensitivities(predictions: LabelledPredictions, config: EvaluationConfig | None = None) -> dict[str, Estimate]:
    """Return the sensitivity of each class, by class name."""
    names, config = predictions.labels.names, config or EvaluationConfig()
    return {name: class_rate(predictions, c, "sensitivity", config) for c, name in enumerate(names)}


def class_rate(predictions: LabelledPredictions, c: int, name: str, config: EvaluationConfig) -> Estimate:
    """Return sensitivity, specificity, PPV or NPV of class ``c``.

    The interval over patients is Korn and Graubard's: Clopper-Pearson at the effective number of scans.
    """
    truth, predicted = predictions.truth[:, c], predictions.predicted[:, c]
    hits, misses = rate_of(name, count(truth, predicted))
    value, method = share(hits, misses), BINOMIAL_NAMES[config.interval]
    if value is None:
        return Estimate.undefined(undefined_rate(predictions, c, name), method)
    interval = BINOMIAL[config.interval](hits, hits + misses)
    if not predictions.clustered:
        return Estimate(value=value, ci95=interval, method=method)
    among = {"sensitivity": truth, "specificity": ~truth, "ppv": predicted, "npv": ~predicted}[name]
    if predictions.patients_among(among) == hits + misses:  # each patient has one scan among these
        return Estimate(value=value, ci95=interval, ci95_cluster=interval, method=method)
    trials = effective_trials(truth == predicted, among, predictions.patients)
    method += " over scans as if independent; ci95_cluster: Korn-Graubard over patients"
    cluster = clopper_pearson(value * trials, trials)
    return Estimate(value=value, ci95=interval, ci95_cluster=cluster, method=method)


def undefined_rate(predictions: LabelledPredictions, c: int, rate: str) -> str:
    """Return why the sensitivity, specificity, PPV or NPV of class ``c`` is undefined."""
    name = predictions.labels.names[c]
    if rate in ("sensitivity", "specificity"):
        return (no_case if rate == "sensitivity" else no_other)(name, predictions.scans)
    return none_called(name) if rate == "ppv" else all_called(name)


@dataclass(frozen=True)
class ClassRates:
    """All rates of all classes, from one set of resamples."""

    predictions: LabelledPredictions
    bootstrap: PatientBootstrap
    config: EvaluationConfig
    cells: ResampledCells

    @classmethod
    def of(cls, predictions: LabelledPredictions, bootstrap: PatientBootstrap, config: EvaluationConfig) -> ClassRates:
        """Draw the resamples."""
        return cls(predictions, bootstrap, config, ResampledCells.of(predictions, bootstrap))

    def rate(self, c: int, name: str) -> Estimate:
        """Return :func:`class_rate` of class ``c``."""
        return class_rate(self.predictions, c, name, self.config)

    def f1(self, c: int) -> Estimate:
        """Return F1 of class ``c``.

        Where all draws agree, its interval follows from Wilson's of J = TP / (TP + FP + FN), as F1 = 2 J / (1 + J).
        """
        counts, name = self._counts(c), self.predictions.labels.names[c]
        value = f1(counts.true_positive, counts.false_positive, counts.false_negative)
        if value is None:
            reason = Sentence("no scan of class {name}, and none was called so", name=name)
            return Estimate.undefined(reason, "F1")
        concerned = self.predictions.truth[:, c] | self.predictions.predicted[:, c]

        def from_wilson() -> Interval | None:
            n, overlap = self.predictions.patients_among(concerned), value / (2 - value)
            limits = wilson(overlap * n, n)
            return limits and (2 * limits[0] / (1 + limits[0]), 2 * limits[1] / (1 + limits[1]))

        resampled = self.cells.resampled(c, f1_in)
        interval, kind = (from_wilson(), "") if resampled.degenerate else resampled.interval()
        how = self.bootstrap.described(kind)
        if not kind:
            how = f"Wilson over patients, because every draw of the {self.bootstrap.described('BCa')} agrees"
        reason = "" if interval else CLASS_MISSING
        return Estimate(value=value, ci95=interval, method=f"F1; {how}", reason=reason)

    def likelihood_ratio(self, c: int, which: Sign) -> Estimate:
        """Return the ``positive`` or ``negative`` likelihood ratio of class ``c``."""
        name = self.predictions.labels.names[c]
        ratio = likelihood_ratio(name, self._counts(c), which)
        if not self.predictions.clustered:
            return ratio
        of_patients = likelihood_ratio(name, self._effective_counts(c), which)
        if ratio.value is None:
            return of_patients  # the same reason, with the lower limit that so many patients allow
        resampled = self.cells.resampled(c, lambda cells: likelihood_ratio_in(which, cells))
        unbounded = float(np.isinf(resampled.draws).mean())
        if unbounded > _MAX_INFINITE_SHARE or resampled.degenerate:
            why = f"{whole_percent(unbounded)} of draws have no bound" if unbounded else "every draw agrees"
            return _with_effective_interval(ratio, of_patients, why)
        return self._with_cluster_interval(ratio, resampled)

    def at_prevalence(self, c: int) -> PredictiveValues | None:
        """Return PPV and NPV at the stated prevalence of class ``c``; None if none is stated."""
        prevalence = self.config.prevalence.get(self.predictions.labels.names[c])
        if prevalence is None:
            return None
        return PredictiveValues(
            prevalence=prevalence,
            ppv=self._predictive_value(c, "ppv", prevalence),
            npv=self._predictive_value(c, "npv", prevalence),
        )

    def _predictive_value(self, c: int, which: PredictiveValue, prevalence: float) -> Estimate:
        name = self.predictions.labels.names[c]
        estimate = predictive_value(which, prevalence, name, self._counts(c))
        if estimate.value is None or not self.predictions.clustered:
            return estimate
        resampled = self.cells.resampled(c, lambda cells: predictive_value_in(which, prevalence, cells))
        if resampled.degenerate:
            of_patients = predictive_value(which, prevalence, name, self._effective_counts(c))
            return _with_effective_interval(estimate, of_patients, "every draw agrees")
        return self._with_cluster_interval(estimate, resampled)

    def _with_cluster_interval(self, estimate: Estimate, resampled: Resampled) -> Estimate:
        """Add an interval over patients to an estimate with one over scans."""
        interval, kind = resampled.interval()
        method = f"{estimate.method}, over scans as if independent; ci95_cluster: {self.bootstrap.described(kind)}"
        return estimate.model_copy(update={"ci95_cluster": interval, "method": method})

    def _counts(self, c: int) -> Counts:
        return count(self.predictions.truth[:, c], self.predictions.predicted[:, c])

    def _effective_counts(self, c: int) -> EffectiveCounts:
        """The 2 x 2 table with as many cases, and as many others, as there are effectively independent scans."""
        counts, truth = self._counts(c), self.predictions.truth[:, c]
        right, patients = truth == self.predictions.predicted[:, c], self.predictions.patients
        of_cases, of_others = (
            effective_trials(right, group, patients) / group.sum() if group.any() else 1.0 for group in (truth, ~truth)
        )
        return EffectiveCounts(
            true_positive=counts.true_positive * of_cases,
            false_positive=counts.false_positive * of_others,
            true_negative=counts.true_negative * of_others,
            false_negative=counts.false_negative * of_cases,
        )


def _with_effective_interval(estimate: Estimate, of_patients: Estimate, why: str) -> Estimate:
    """Add the interval of the effective numbers of scans, since resampled patients give none."""
    how = f"over scans as if independent; ci95_cluster: the same at the effective number of scans, because {why}"
    return estimate.model_copy(update={"ci95_cluster": of_patients.ci95, "method": f"{estimate.method}, {how}"})
