"""What a reader must know first: what was asked, on whom, how many were found, and what to beware of."""

from __future__ import annotations

from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import Section
from med_transfer.report.sections.first_screen_answers import brief, detection, figures_of_the_run
from med_transfer.report.sections.first_screen_forest import sensitivity_forest
from med_transfer.report.sections.first_screen_notices import notices
from med_transfer.report.sections.first_screen_trust import overlap_notices, trust_notices
from med_transfer.report.table import Cell, Table, estimated


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    metrics = evidence.metrics
    said = [*overlap_notices(metrics.overlap, t), *notices(evidence, t), *trust_notices(evidence, t)]
    return Section(
        t("Summary"),
        [_sensitivity(metrics, t)],
        [sensitivity_forest(metrics, t)],
        {
            "brief": brief(evidence, t),
            "facts": figures_of_the_run(evidence, t),
            "found": [
                detection(name, class_metrics, metrics.multilabel, t) for name, class_metrics in metrics.classes.items()
            ],
            "limits": [notice for notice in said if notice.level == "warning"],
            "notices": [notice for notice in said if notice.level != "warning"],
        },
    )


def _sensitivity(metrics: Metrics, t: Translator) -> Table:
    """As a file only: on the page the same stands in words."""
    return Table(
        "sensitivity",
        t("Sensitivity of each class"),
        (t("Class"), t("Found / scans"), t("Sensitivity")),
        [
            (
                name,
                Cell(
                    f"{class_metrics.counts.true_positive} / {class_metrics.n}",
                    values={t("found"): class_metrics.counts.true_positive, t("scans"): class_metrics.n},
                ),
                estimated(class_metrics.sensitivity, "percent", t),
            )
            for name, class_metrics in metrics.classes.items()
        ],
    )
