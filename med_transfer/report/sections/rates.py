"""Sensitivity, specificity, predictive values and AUC of each class."""

from __future__ import annotations

from med_transfer.metrics.records.class_metrics import ClassMetrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import tenths
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, estimated

_AUTHORS = {"wilson": "Wilson", "clopper-pearson": "Clopper-Pearson", "jeffreys": "Jeffreys"}


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    metrics = evidence.metrics
    caption = t(
        "Each class against the rest, with 95 % intervals ({rates}; AUC: {auc}).",
        rates=_AUTHORS[metrics.evaluation.interval],
        auc="Obuchowski" if evidence.clustered else "DeLong",
    )
    if evidence.clustered:
        caption += " " + t("†: interval over patients.")
    table = Table(
        "by-class",
        caption + " " + t("Predictive values hold only at the prevalence of these scans."),
        (t("Class"), t("Scans (prevalence)"), t("Sensitivity"), t("Specificity"), t("PPV"), t("NPV"), t("AUC")),
        [
            (name, _scans(class_metrics, metrics.prevalence[name], t), *_estimates(class_metrics, t))
            for name, class_metrics in metrics.classes.items()
        ],
    )
    return Section(t("Rates by class"), [table])


def _scans(class_metrics: ClassMetrics, prevalence: float, t: Translator) -> Cell:
    return Cell(str(class_metrics.n), (tenths(prevalence),), {"": class_metrics.n, t("prevalence"): prevalence})


def _estimates(class_metrics: ClassMetrics, t: Translator) -> list[Cell]:
    rates = (class_metrics.sensitivity, class_metrics.specificity, class_metrics.ppv, class_metrics.npv)
    return [*(estimated(rate, "percent", t) for rate in rates), estimated(class_metrics.auc, "decimal", t)]
