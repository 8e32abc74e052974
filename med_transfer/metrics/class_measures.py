"""Everything that is measured of each class."""

from __future__ import annotations

from med_transfer.metrics.class_auc import average_precision, class_auc, partial_auc
from med_transfer.metrics.class_rates import ClassRates
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.rates import RATES, count
from med_transfer.metrics.record import ClassMetrics
from med_transfer.metrics.sample_size import SampleSize, sample_size


def class_metrics(
    scored: LabelledPredictions, bootstrap: PatientBootstrap, config: EvaluationConfig
) -> dict[str, ClassMetrics]:
    """By class name, each against the rest."""
    rates = ClassRates.of(scored, bootstrap, config, resample=True)
    return {name: _of_class(c, rates) for c, name in enumerate(scored.labels.names)}


def _of_class(c: int, rates: ClassRates) -> ClassMetrics:
    scored, bootstrap = rates.scored, rates.bootstrap
    truth = scored.truth[:, c]
    return ClassMetrics(
        n=int(truth.sum()),
        n_patients=scored.patients_among(truth),
        counts=count(truth, scored.predicted[:, c]),
        **{name: rates.rate(c, name) for name in RATES},
        f1=rates.f1(c),
        lr_positive=rates.likelihood_ratio(c, "positive"),
        lr_negative=rates.likelihood_ratio(c, "negative"),
        auc=class_auc(scored, c),
        average_precision=average_precision(scored, c, bootstrap),
        partial_auc=partial_auc(scored, c, bootstrap),
        at_prevalence=rates.at_prevalence(c),
        sample_size=_sample_sizes(c, rates),
    )


def _sample_sizes(c: int, rates: ClassRates) -> dict[str, SampleSize]:
    scored, name = rates.scored, rates.scored.labels.names[c]
    found = {}
    for rate, among in (("sensitivity", scored.truth[:, c]), ("specificity", ~scored.truth[:, c])):
        value, n_patients = rates.rate(c, rate).value, scored.patients_among(among)
        stated = sample_size(rate, name, value, n_patients, rates.config.interval_width)
        if stated is not None:
            found[rate] = stated
    return found
