"""Overall measures of one model on one set of scans, each with its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from med_transfer.errors.sentence import Sentence, joined
from med_transfer.metrics.auc import weighted_average_precision, weighted_micro_auc
from med_transfer.metrics.binomial import clopper_pearson
from med_transfer.metrics.class_auc import widened
from med_transfer.metrics.combination import Parts, auc_parts, defined_classes, rate_parts
from med_transfer.metrics.delong import macro_auc_interval
from med_transfer.metrics.intervals import PatientBootstrap, estimate_of_draws, wider
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.reasons import NO_CLASS_WITH_BOTH, ONE_ANSWER
from med_transfer.metrics.records.estimate import Estimate


def balanced_accuracy(predictions: LabelledPredictions) -> Estimate:
    """Return the mean sensitivity over classes (for findings, of sensitivity and specificity), see ``rates``."""
    what = Sentence("mean of the classes' sensitivities")
    if predictions.labels.multilabel:
        what = Sentence("mean over findings of (sensitivity + specificity) / 2")
    if not defined_classes(predictions).any():
        return Estimate.undefined(NO_CLASS_WITH_BOTH, what)
    parts = rate_parts(predictions, clopper_pearson)
    limits = Sentence("Clopper-Pearson limits of each rate")
    combined = _of_parts(parts, what, limits, predictions, _is_chance(predictions, parts))
    return widened(combined, predictions, of_rates=True)


def _is_chance(predictions: LabelledPredictions, parts: Parts) -> bool:
    """Whether all scans have the same probabilities and call, so that balanced accuracy is at chance in any sample.

    Equal calls from different probabilities may differ in the next sample, so they do not count. Nor does a cohort of
    a single class.
    """
    one_answer = (np.ptp(predictions.probabilities, axis=0) == 0).all() and (
        predictions.predicted == predictions.predicted[0]
    ).all()
    return bool(one_answer) and 0 < float(parts.values.mean()) < 1


def macro_auc(predictions: LabelledPredictions) -> Estimate:
    """Return the mean AUC over classes where it is defined; if out of fold, see :func:`.class_auc.widened`."""
    return widened(_macro_auc(predictions), predictions)


def _macro_auc(predictions: LabelledPredictions) -> Estimate:
    what = Sentence("mean of the classes' one-against-the-rest AUCs")
    if not (predictions.truth.any(axis=0) & ~predictions.truth.all(axis=0)).any():
        return Estimate.undefined(NO_CLASS_WITH_BOTH, what)
    parts, one_answer = auc_parts(predictions), bool((np.ptp(predictions.probabilities, axis=0) == 0).all())
    limits = Sentence("the wider of DeLong's interval (logit scale, Student's t) and Newcombe's limits of each AUC")
    combined = _of_parts(parts, what, limits, predictions, one_answer)
    by_variance = macro_auc_interval(
        predictions.truth, predictions.probabilities, predictions.patients, multilabel=predictions.labels.multilabel
    )
    if combined.ci95 is None or by_variance is None or one_answer:
        return combined
    return combined.model_copy(update={"ci95": wider(combined.ci95, by_variance)})


def _of_parts(parts: Parts, what: str, limits: str, predictions: LabelledPredictions, one_answer: bool) -> Estimate:
    """Mean of the parts with its combined interval, of zero width if every scan gets the same answer."""
    value, what = float(parts.values.mean()), _note_absent_classes(what, predictions, defined_classes(predictions))
    if one_answer:
        method = joined(what, Sentence("no spread, because {why}", why=ONE_ANSWER))
        return Estimate(value=value, ci95=(value, value), method=method)
    low, high = parts.combined(np.full(len(parts.values), 1 / len(parts.values)))
    how = Sentence("{limits}, combined over patients (MOVER)", limits=limits)
    return Estimate(value=value, ci95=(max(low, 0.0), min(high, 1.0)), method=joined(what, how))


def micro_auc(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> Estimate:
    """Return the AUC of all (scan, class) pairs pooled; without an interval if every draw agrees."""

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_micro_auc(predictions.truth, predictions.probabilities, weights)

    what = Sentence("all pairs of scan and class together")
    value = float(bootstrap.observed(statistic))
    if not np.isfinite(value):
        return Estimate.undefined(Sentence("no pair of scan and class to tell apart"), what)
    return estimate_of_draws(value, bootstrap.distribution(statistic), what, bootstrap)


def macro_average_precision(predictions: LabelledPredictions, bootstrap: PatientBootstrap) -> Estimate:
    """Return the mean average precision over classes with cases; without an interval if every draw agrees."""
    has_cases = np.asarray(predictions.truth.any(axis=0))
    columns = np.flatnonzero(has_cases)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        by_class = [
            weighted_average_precision(predictions.truth[:, c], predictions.probabilities[:, c], weights)
            for c in columns
        ]
        return np.mean(by_class, axis=0)

    what = _note_absent_classes(Sentence("mean of the classes' average precisions"), predictions, has_cases)
    if not len(columns):
        reason = Sentence("no class has a case among {scans}", scans=predictions.scans)
        return Estimate.undefined(reason, what)
    return estimate_of_draws(float(bootstrap.observed(statistic)), bootstrap.distribution(statistic), what, bootstrap)


def confusion_matrix(predictions: LabelledPredictions) -> list[list[int]] | None:
    """Return the number of scans by true class (row) and called class (column); None for multi-label data."""
    if predictions.labels.multilabel:
        return None
    return (predictions.truth.T.astype(int) @ predictions.predicted.astype(int)).tolist()


def _note_absent_classes(what: str, predictions: LabelledPredictions, included: NDArray[np.bool_]) -> str:
    """Description of a mean over the ``included`` classes, boolean [class], with those that are left out of it."""
    absent = ", ".join(name for name, there in zip(predictions.labels.names, included, strict=True) if not there)
    if not absent:
        return what
    return Sentence(
        "{what} (without {absent}: undefined in {scans})", what=what, absent=absent, scans=predictions.scans
    )
