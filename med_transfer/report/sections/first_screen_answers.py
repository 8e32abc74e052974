"""The answers in words: what was asked, on whom, at which threshold, how many were found, was transfer worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from med_transfer.errors.numbers import threshold
from med_transfer.metrics.records.class_metrics import ClassMetrics
from med_transfer.metrics.records.estimate import Interval
from med_transfer.metrics.records.metrics import Metrics, TransferGain
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.page import Translator, sentence
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import (
    decimal,
    decimal_interval,
    patients,
    percent,
    percent_interval,
    scans,
    signed,
    signed_interval,
    validation_scans,
    without,
)

_VERDICTS = {
    "gain": sentence("transfer helped"),
    "none": sentence("no gain shown"),
    "harm": sentence("negative transfer"),
}


def brief(evidence: Evidence, t: Translator) -> list[tuple[str, str]]:
    """Question and answer, for a reader who knows nothing of the program."""
    metrics = evidence.metrics
    return [
        (t("Possible answers"), _answers(metrics, t)),
        (t("Evaluated on"), _evaluated_population(evidence, t)),
        (t("Model"), t.translated(evidence.run.backbone)),
        (
            t("Decision rule"),
            t("{rule}; {how}", rule=call_rule(metrics.operating_point, t), how=_chosen(metrics, t)),
        ),
    ]


def figures_of_the_run(evidence: Evidence, t: Translator) -> list[tuple[str, str, str]]:
    """Name, value, and what stands beneath it."""
    metrics = evidence.metrics
    accuracy, auc, repeats = metrics.balanced_accuracy, metrics.macro_auc, metrics.repeats
    no_rate, no_auc = _left_out_of_means(metrics)
    which = t("Out-of-fold scans") if metrics.out_of_fold else t("Test scans")
    return [
        (which, str(metrics.n_scans), t("of {n} patients", n=metrics.n_patients)),
        (
            t("Balanced accuracy"),
            percent(accuracy),
            (percent_interval(accuracy.ci95, t) or t.translated(accuracy.reason))
            + without(no_rate, accuracy, t)
            + _by_split(repeats and repeats.balanced_accuracy, percent_interval, t),
        ),
        (
            t("Macro AUC"),
            decimal(auc),
            (decimal_interval(auc.ci95, t) or t.translated(auc.reason))
            + without(no_auc, auc, t)
            + _by_split(repeats and repeats.macro_auc, decimal_interval, t),
        ),
        _gain(metrics.transfer_gain, t),
        (t("Unusable scans"), str(metrics.failed.n), t("of {n} scans", n=evidence.n_asked)),
    ]


def _left_out_of_means(metrics: Metrics) -> tuple[list[str], list[str]]:
    """Classes that balanced accuracy and macro AUC are not means over, because they are undefined for them."""
    of_class = metrics.classes.items()
    no_rate = [
        name
        for name, one in of_class
        if one.sensitivity.value is None or (metrics.multilabel and one.specificity.value is None)
    ]
    return no_rate, [name for name, one in of_class if one.auc.value is None]


def _by_split(values: Sequence[float | None] | None, span: Callable[[Interval, Translator], str], t: Translator) -> str:
    """How far apart the repeats of a cross-validation lie; empty where there was one."""
    defined = [value for value in values or () if value is not None]
    return t("; range over repeats {span}", span=span((min(defined), max(defined)), t)) if defined else ""


def detection(class_metrics: ClassMetrics, t: Translator) -> tuple[str, str]:
    """How many scans of a class were called so, and how many that were not."""
    counts = class_metrics.counts
    found = t(
        "found {found} of {scans} ({patients})",
        found=counts.true_positive,
        scans=scans(class_metrics.n, t),
        patients=patients(class_metrics.n_patients, t),
    )
    n_other = counts.false_positive + counts.true_negative
    return found, t("{n} false positives among the {others} other scans", n=counts.false_positive, others=n_other)


def call_rule(point: OperatingPoint, t: Translator) -> str:
    """When a scan is called so, in words."""
    if point.rule == "argmax":
        return t("the most probable class")
    if point.rule == "balanced_argmax":
        return t("the class with the strongest evidence, however rare it is")
    if point.rule == "cost":
        return t("the class with the lowest expected cost")
    limits = t(", ").join(
        t("{name} from a probability of {limit}", name=name, limit=threshold(limit))
        for name, limit in point.thresholds.items()
    )
    if point.rule == "class_threshold":
        return t("{limits}; otherwise the most probable of the other classes", limits=limits)
    return limits


def _answers(metrics: Metrics, t: Translator) -> str:
    names = t(", ").join(metrics.labels)
    if metrics.multilabel:
        return t("any number of {names}", names=names)
    return t("exactly one of {names}", names=names)


def _evaluated_population(evidence: Evidence, t: Translator) -> str:
    metrics, overlap = evidence.metrics, evidence.metrics.overlap
    seen = overlap.seen_scans if overlap else 0
    count = {"scans": scans(metrics.n_scans, t), "patients": patients(metrics.n_patients, t)}
    if seen:
        return t("{scans} of {patients}; {seen} of the scans had been used to train the network", seen=seen, **count)
    if metrics.repeats is not None:
        return t(
            "{scans} of {patients}, each predicted by the mean of {n} networks that were not trained on it",
            n=metrics.repeats.n,
            **count,
        )
    if metrics.out_of_fold:
        return t("{scans} of {patients}, each predicted by a network that was not trained on it", **count)
    return t("{scans} of {patients}, held out from training", **count)


def _chosen(metrics: Metrics, t: Translator) -> str:
    point = metrics.chosen_point
    if metrics.operating_point.chosen_on == "fixed":
        return t("by a rule fixed before training")
    if point is None:
        return t("chosen on validation scans")
    return t(
        "chosen on {scans} of {patients}",
        scans=validation_scans(point.n_scans, t),
        patients=patients(point.n_patients, t),
    )


def _gain(gain: TransferGain | None, t: Translator) -> tuple[str, str, str]:
    """The difference that the verdict rests on; of two that could be, or of none, the macro AUC."""
    if gain is None:
        return t("Transfer gain, macro AUC"), "–", t("not measured")
    by_auc, _ = gain.sides
    by_calls = gain.verdict != "none" and by_auc != (1 if gain.verdict == "gain" else -1)
    shown = gain.balanced_sensitivity if by_calls else gain.macro_auc
    name = t("Transfer gain, balanced accuracy") if by_calls else t("Transfer gain, macro AUC")
    return (
        name,
        signed(shown),
        t(
            "{interval}: {verdict}",
            interval=signed_interval(shown.ci95, t) or shown.reason,
            verdict=t(_VERDICTS[gain.verdict]),
        ),
    )
