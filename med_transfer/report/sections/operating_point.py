"""At which threshold: the rule, what it reached on validation scans, its lock, and how often the test set was read."""

from __future__ import annotations

from med_transfer.errors.numbers import threshold
from med_transfer.metrics.records.decisions import AccessCounts, ChosenPoint
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import patients, scans, validation_scans
from med_transfer.report.section import Section
from med_transfer.report.table import Table, estimated, number
from med_transfer.report.test_access import decided_before, times_read


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    metrics = evidence.metrics
    chosen, access = metrics.chosen_point, metrics.test_set_access
    if chosen is None and access is None:
        return None
    tables = [_decided(metrics, access, t)]
    if chosen and evidence.model == "network" and _has_separate_validation(metrics):  # those rates are the network's
        tables.append(_reached(metrics, chosen, t))
    tables += [_costs(metrics.operating_point, metrics.labels, t)] if metrics.operating_point.costs else []
    return Section(t("Operating point"), tables, values={"chosen": chosen, "out_of_fold": metrics.out_of_fold})


def _has_separate_validation(metrics: Metrics) -> bool:
    """Whether validation scans and those evaluated differ: as others, or by thresholds that were chosen on them."""
    return not metrics.out_of_fold or metrics.operating_point.chosen_on == "validation"


def _decided(metrics: Metrics, access: AccessCounts | None, t: Translator) -> Table:
    point, chosen = metrics.operating_point, metrics.chosen_point
    rows = [(t("A scan is called"), point.translated(t))]
    if chosen is not None:
        rows = [(t("Aim"), t.translated(chosen.aim)), *rows, (t("Decided on"), _decided_on(point, chosen, t))]
    if access is not None:
        read = t(", ").join(filter(None, [times_read(access, t), decided_before(access, t)]))
        locked = access.lock_hash or t("not locked: the bundle predates locks")
        rows += [(t("Lock on all decisions (SHA-256)"), locked), (t("Test-set access"), read)]
    what = t("What was decided before the test set was read")
    if metrics.out_of_fold:
        what = t("What was decided for the bundle; for each scan here, the same was decided on other patients")
    return Table("decided", what, (t("Decision"), t("Value")), rows, kind="text")


def _decided_on(point: OperatingPoint, chosen: ChosenPoint, t: Translator) -> str:
    if chosen.rule == "balanced_argmax":  # which calibration turns into numbers
        return t("no scan: the rule was stated before training; its numbers follow from the calibration")
    if point.chosen_on == "fixed":
        return t("no scan: stated before training")
    return t(
        "{scans} of {patients}", scans=validation_scans(chosen.n_scans, t), patients=patients(chosen.n_patients, t)
    )


def _reached(metrics: Metrics, chosen: ChosenPoint, t: Translator) -> Table:
    thresholds, of_patients = metrics.operating_point.thresholds, patients(chosen.n_patients, t)
    what = t(
        "Performance on {scans} of {patients} and on the test scans; 95 % intervals",
        scans=validation_scans(chosen.n_scans, t),
        patients=of_patients,
    )
    which = (t("Sensitivity, test"), t("Specificity, test"))
    if metrics.out_of_fold:
        what = t(
            "Performance on the {scans} of {patients} that it was decided on, and out of fold (for each scan as "
            "decided on other patients); 95 % intervals",
            scans=scans(chosen.n_scans, t),
            patients=of_patients,
        )
        which = (t("Sensitivity, out of fold"), t("Specificity, out of fold"))
    return Table(
        "reached",
        what,
        (
            t("Class"),
            t("Threshold"),
            t("Sensitivity, validation"),
            t("Specificity, validation"),
            *which,
        ),
        [
            (
                name,
                number(thresholds.get(name), threshold),
                estimated(chosen.sensitivity[name], "percent", t),
                estimated(chosen.specificity[name], "percent", t),
                estimated(class_metrics.sensitivity, "percent", t),
                estimated(class_metrics.specificity, "percent", t),
            )
            for name, class_metrics in metrics.classes.items()
        ],
    )


def _costs(point: OperatingPoint, labels: list[str], t: Translator) -> Table:
    return Table(
        "costs",
        t("Cost of calling a scan (column) when it is (row)"),
        (t("Class"), *labels),
        [
            (true, *(number(({true: 0.0} | point.costs[true])[predicted], "{:g}".format) for predicted in labels))
            for true in labels
        ],
    )
