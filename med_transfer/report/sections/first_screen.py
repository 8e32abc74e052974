"""What a reader must know first: what was asked, on whom, how many were found, and what to beware of."""

from __future__ import annotations

from med_transfer.evaluation.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import decimal, decimal_interval, percent, percent_interval
from med_transfer.report.section import Section
from med_transfer.report.sections.first_screen_forest import sensitivity_forest
from med_transfer.report.sections.first_screen_notices import notices
from med_transfer.report.sections.first_screen_trust import trust_notices
from med_transfer.report.table import Cell, Table, estimated


def section(evidence: Evidence, t: Translator) -> Section:
    metrics = evidence.metrics
    return Section(
        t("Summary"),
        [_sensitivity(metrics, t)],
        [sensitivity_forest(metrics, t)],
        {"facts": _facts(metrics, t), "notices": [*trust_notices(evidence, t), *notices(evidence, t)]},
    )


def _facts(metrics: Metrics, t: Translator) -> list[tuple[str, str, str]]:
    """Name, value, and what stands beneath it."""
    accuracy, auc = metrics.balanced_accuracy, metrics.macro_auc
    return [
        (t("Test scans"), str(metrics.n_scans), t("of {n} patients", n=metrics.n_patients)),
        (t("Balanced accuracy"), percent(accuracy), percent_interval(accuracy.ci95, t) or accuracy.reason),
        (t("Macro AUC"), decimal(auc), decimal_interval(auc.ci95, t) or auc.reason),
        (t("Failed scans"), str(metrics.failed.n), t("of {n} asked", n=metrics.n_scans + metrics.failed.n)),
    ]


def _sensitivity(metrics: Metrics, t: Translator) -> Table:
    return Table(
        "sensitivity",
        t("Sensitivity of each class at the operating point ({rule})", rule=metrics.operating_point),
        (t("Class"), t("Found / scans"), t("Sensitivity, 95 % CI")),
        [
            (
                name,
                Cell(
                    f"{found.counts.true_positive} / {found.n}",
                    values={t("found"): found.counts.true_positive, t("scans"): found.n},
                ),
                estimated(found.sensitivity, "percent", t),
            )
            for name, found in metrics.classes.items()
        ],
    )
