"""Predictive values where the classes are rarer or more common than among the evaluated scans."""

from __future__ import annotations

from med_transfer.metrics.records.class_metrics import ClassMetrics, PredictiveValues
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import tenths
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, estimated


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    metrics = evidence.metrics
    rows = [
        _row(name, class_metrics, class_metrics.at_prevalence, metrics.prevalence[name], t)
        for name, class_metrics in metrics.classes.items()
        if class_metrics.at_prevalence is not None
    ]
    if not rows:
        return None
    columns = (
        t("Class"),
        t("Stated prevalence"),
        t("PPV at stated prevalence"),
        t("NPV at stated prevalence"),
        t("Prevalence here"),
        t("PPV here"),
        t("NPV here"),
    )
    caption = t("Predictive values at the stated prevalence, and those among the evaluated scans, with 95 % intervals")
    return Section(t("At another prevalence"), [Table("stated", caption, columns, rows)])


def _row(
    name: str, class_metrics: ClassMetrics, stated: PredictiveValues, here: float, t: Translator
) -> tuple[Cell | str, ...]:
    return (
        name,
        _share(stated.prevalence),
        estimated(stated.ppv, "percent", t),
        estimated(stated.npv, "percent", t),
        _share(here),
        estimated(class_metrics.ppv, "percent", t),
        estimated(class_metrics.npv, "percent", t),
    )


def _share(prevalence: float) -> Cell:
    text = f"{100 * prevalence:.3g}"
    return Cell(tenths(prevalence) if float(text) == 100 else f"{text} %", values={"": prevalence})
