"""Likelihood ratios and F1 of the calls; AUC, partial AUC and average precision of the probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from med_transfer.metrics.auc import PARTIAL_FROM
from med_transfer.metrics.records.class_metrics import ClassMetrics
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, estimated


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    metrics = evidence.metrics
    if all(class_metrics.f1 is None for class_metrics in metrics.classes.values()):
        return None
    return Section(t("Further measures"), [_calls(metrics.classes, t), _ranking(metrics, t)])


def _calls(classes: Mapping[str, ClassMetrics], t: Translator) -> Table:
    return Table(
        "calls",
        t("What calling a class changes, at the operating point, with 95 % intervals"),
        (t("Class"), t("LR+"), t("LR−"), t("F1")),
        [
            (
                name,
                _cell(class_metrics.lr_positive, "ratio", t),
                _cell(class_metrics.lr_negative, "ratio", t),
                _cell(class_metrics.f1, "decimal", t),
            )
            for name, class_metrics in classes.items()
        ],
    )


def _ranking(metrics: Metrics, t: Translator) -> Table:
    rows = [
        (
            name,
            *(
                _cell(estimate, "decimal", t)
                for estimate in (class_metrics.auc, class_metrics.partial_auc, class_metrics.average_precision)
            ),
        )
        for name, class_metrics in metrics.classes.items()
    ]
    macro = (metrics.macro_auc, None, metrics.macro_average_precision)
    rows.append((t("Macro (mean of the classes)"), *(_cell(estimate, "decimal", t) for estimate in macro)))
    rows.append((t("Micro (all pairs together)"), _cell(metrics.micro_auc, "decimal", t), Cell(""), Cell("")))
    return Table(
        "ranking",
        t(
            "How well the probabilities separate each class from the rest, independent of the operating point, with "
            "95 % intervals"
        ),
        (
            t("Class"),
            t("AUC"),
            t("AUC at specificity {least} or more", least=f"{100 * PARTIAL_FROM:.0f} %"),
            t("Average precision"),
        ),
        rows,
    )


def _cell(estimate: Estimate | None, kind: Literal["decimal", "ratio"], t: Translator) -> Cell:
    return Cell("") if estimate is None else estimated(estimate, kind, t)
