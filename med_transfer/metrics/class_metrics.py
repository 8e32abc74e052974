"""All measures of each class."""

from __future__ import annotations

from med_transfer.errors.numbers import counted, rounded
from med_transfer.metrics.binomial import trials_for_width, wilson
from med_transfer.metrics.class_auc import average_precision, class_auc, partial_auc, widened
from med_transfer.metrics.class_rates import ClassRates
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.rates import RATES, count
from med_transfer.metrics.records.class_metrics import ClassMetrics, SampleSize


def class_metrics(
    predictions: LabelledPredictions, bootstrap: PatientBootstrap, config: EvaluationConfig
) -> dict[str, ClassMetrics]:
    """Return the measures of each class against the rest, by class name."""
    rates = ClassRates.of(predictions, bootstrap, config)
    return {name: _of_class(c, rates) for c, name in enumerate(predictions.labels.names)}


def _of_class(c: int, rates: ClassRates) -> ClassMetrics:
    predictions, bootstrap = rates.predictions, rates.bootstrap
    truth = predictions.truth[:, c]
    return ClassMetrics(
        n=int(truth.sum()),
        n_patients=predictions.patients_among(truth),
        counts=count(truth, predictions.predicted[:, c]),
        **{name: rates.rate(c, name) for name in RATES},
        f1=rates.f1(c),
        lr_positive=rates.likelihood_ratio(c, "positive"),
        lr_negative=rates.likelihood_ratio(c, "negative"),
        auc=widened(class_auc(predictions, c), predictions),
        average_precision=average_precision(predictions, c, bootstrap),
        partial_auc=partial_auc(predictions, c, bootstrap),
        at_prevalence=rates.at_prevalence(c),
        sample_size=_sample_sizes(c, rates),
    )


def _sample_sizes(c: int, rates: ClassRates) -> dict[str, SampleSize]:
    predictions, name = rates.predictions, rates.predictions.labels.names[c]
    sizes = {}
    for rate, among in (("sensitivity", predictions.truth[:, c]), ("specificity", ~predictions.truth[:, c])):
        value, n_patients = rates.rate(c, rate).value, predictions.patients_among(among)
        stated = sample_size(rate, name, value, n_patients, rates.config.interval_width)
        if stated is not None:
            sizes[rate] = stated
    return sizes


def sample_size(rate: str, name: str, value: float | None, n_patients: int, wanted_width: float) -> SampleSize | None:
    """Return how many patients a narrower interval of a rate needs; None if the rate is undefined.

    Patients with several scans count as if called once.

    Args:
        rate: ``sensitivity`` or ``specificity``.
        name: class name.
        value: the rate, in [0, 1].
        n_patients: patients that it was measured on.
        wanted_width: width of the 95 % interval, in (0, 1).
    """
    interval = None if value is None else wilson(value * n_patients, n_patients)
    if value is None or interval is None:
        return None
    worst = min(max(0.5, interval[0]), interval[1])
    needed, at_worst = trials_for_width(value, wanted_width), trials_for_width(worst, wanted_width)
    whose = f"labelled {name}" if rate == "sensitivity" else f"not labelled {name}"
    shown, low, high, at_most = (rounded(number, 2) for number in (value, *interval, worst))
    text = (
        f"With {counted(n_patients, 'patient')} {whose}, a {rate} of {shown} has an interval of {low} to {high}; for a "
        f"width of {wanted_width:g} about {needed} are needed if it stays there, and up to {at_worst} if it "
        f"is {at_most}."
    )
    return SampleSize(
        n_patients=n_patients,
        value=value,
        ci95=interval,
        wanted_width=wanted_width,
        n_needed=needed,
        worst_value=worst,
        n_needed_at_worst=at_worst,
        sentence=text,
    )
