"""The measures of one model on one set of scans, each with its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.metrics.auc import (
    weighted_average_precision,
    weighted_macro_auc,
    weighted_micro_auc,
)
from med_transfer.metrics.binomial import wilson
from med_transfer.metrics.class_auc import auc_bound
from med_transfer.metrics.intervals import PatientBootstrap, Statistic, is_degenerate, percentile_interval
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.rates import weighted_balanced_accuracy
from med_transfer.metrics.reasons import DRAWS_AGREE, NO_CLASS_WITH_BOTH, ONE_ANSWER, SOME_CLASS_MISSING
from med_transfer.metrics.records.estimate import Estimate, Interval
from med_transfer.metrics.records.sentence import Sentence, joined

_NO_INTERVAL = Sentence("no interval")


def balanced_accuracy(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> Estimate:
    """Mean sensitivity of the classes (for findings: of sensitivity and specificity), see ``rates``."""
    multilabel = predictions.labels.multilabel

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_balanced_accuracy(predictions.truth, predictions.predicted, weights, multilabel=multilabel)

    what = Sentence("mean of the classes' sensitivities")
    if multilabel:
        what = Sentence("mean over findings of (sensitivity + specificity) / 2")
    value = _value(statistic, predictions)
    if value is None:
        return Estimate(value=None, ci95=None, method=what, reason=NO_CLASS_WITH_BOTH)
    draws = bootstrap.distribution(statistic)
    return _resampled(
        value,
        draws,
        _without_absent(what, predictions),
        _balanced_bound(predictions, value),
        Sentence("the mean of Wilson limits"),
        bootstrap,
    )


def _balanced_bound(predictions: LabelledPredictions, value: float) -> Interval | None:
    """Mean of the Wilson limits of the rates that make up the balanced accuracy; patients count once."""
    if (predictions.predicted == predictions.predicted[0]).all():  # one answer for all scans: the same in any sample
        return value, value
    limits = []
    for c in np.flatnonzero(_defined(predictions)):
        groups = (
            [predictions.truth[:, c], ~predictions.truth[:, c]]
            if predictions.labels.multilabel
            else [predictions.truth[:, c]]
        )
        for among in groups:
            right = (predictions.truth[:, c] == predictions.predicted[:, c])[among].mean()
            patients = predictions.patients_among(among)
            limits.append(wilson(right * patients, patients))
    return _mean_interval(limits)


def macro_auc(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> Estimate:
    """Mean AUC over the classes that have one."""

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_macro_auc(predictions.truth, predictions.probabilities, weights)

    what = Sentence("mean of the classes' one-against-the-rest AUCs")
    value = _value(statistic, predictions)
    if value is None:
        return Estimate(value=None, ci95=None, method=what, reason=NO_CLASS_WITH_BOTH)
    bounds = [auc_bound(predictions, c) for c in range(len(predictions.labels))]
    bound = _mean_interval([b for b in bounds if b is not None])
    draws = bootstrap.distribution(statistic)
    return _resampled(
        value, draws, _without_absent(what, predictions), bound, Sentence("the mean of Newcombe's limits"), bootstrap
    )


def micro_auc(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> Estimate:
    """AUC of all (scan, class) pairs together; no interval where every draw agrees."""

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_micro_auc(predictions.truth, predictions.probabilities, weights)

    what = Sentence("all pairs of scan and class together")
    value = _value(statistic, predictions)
    if value is None:
        return Estimate(value=None, ci95=None, method=what, reason=Sentence("no pair of scan and class to tell apart"))
    return _resampled(value, bootstrap.distribution(statistic), what, None, _NO_INTERVAL, bootstrap)


def macro_average_precision(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> Estimate:
    """Mean average precision over the classes that have cases; no interval where every draw agrees."""
    columns = np.flatnonzero(predictions.truth.any(axis=0))

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        by_class = [
            weighted_average_precision(predictions.truth[:, c], predictions.probabilities[:, c], weights)
            for c in columns
        ]
        return np.mean(by_class, axis=0)

    what = _without_absent(Sentence("mean of the classes' average precisions"), predictions)
    if not len(columns):
        reason = Sentence("no class has a case among {scans}", scans=predictions.scans)
        return Estimate(value=None, ci95=None, method=what, reason=reason)
    value = float(statistic(np.ones((1, len(predictions))))[0])
    return _resampled(value, bootstrap.distribution(statistic), what, None, _NO_INTERVAL, bootstrap)


def confusion_matrix(predictions: LabelledPredictions) -> list[list[int]] | None:
    """Scans by true class (row) and called class (column); None for several findings a scan."""
    if predictions.labels.multilabel:
        return None
    return (predictions.truth.T.astype(int) @ predictions.predicted.astype(int)).tolist()


def _value(statistic: Statistic, predictions: LabelledPredictions) -> float | None:
    value = float(statistic(np.ones((1, len(predictions))))[0])
    return value if np.isfinite(value) else None


def _defined(predictions: LabelledPredictions) -> NDArray[np.bool_]:
    n_positive = predictions.truth.sum(axis=0)
    return (n_positive > 0) & (n_positive < len(predictions)) if predictions.labels.multilabel else n_positive > 0


def _without_absent(what: str, predictions: LabelledPredictions) -> str:
    """What is measured, and which classes are left out of it."""
    absent = ", ".join(
        name for name, there in zip(predictions.labels.names, _defined(predictions), strict=True) if not there
    )
    if not absent:
        return what
    return Sentence(
        "{what} (without {absent}: undefined in {scans})", what=what, absent=absent, scans=predictions.scans
    )


def _mean_interval(limits: list[Interval | None]) -> Interval | None:
    intervals = [limit for limit in limits if limit is not None]
    if not intervals:
        return None
    low, high = np.mean(intervals, axis=0)
    return float(low), float(high)


def _resampled(
    value: float,
    draws: NDArray[np.float64],
    what: str,
    bound: Interval | None,
    bound_method: str,
    bootstrap: PatientBootstrap,
) -> Estimate:
    """An estimate with the interval of its draws, or ``bound`` when all draws agree."""
    if is_degenerate(draws):
        constant = bound is not None and bound[0] == bound[1]
        why = ONE_ANSWER if constant else DRAWS_AGREE
        if bound is None:
            return Estimate(value=value, ci95=None, method=what, reason=Sentence("no interval: {why}", why=why))
        how = Sentence("no spread, because {why}", why=why)
        if not constant:
            how = Sentence("{limits} over patients, because {why}", limits=bound_method, why=why)
        return Estimate(value=value, ci95=bound, method=joined(what, how))
    interval = percentile_interval(draws)
    missing = 1 - float(np.isfinite(draws).mean())
    method = joined(what, bootstrap.described("percentile"))
    if missing:
        method = Sentence("{method}, {share} of draws lacked a class", method=method, share=f"{missing:.1%}")
    return Estimate(value=value, ci95=interval, method=method, reason="" if interval else SOME_CLASS_MISSING)
