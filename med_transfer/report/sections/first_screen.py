"""What a reader must know first: what limits the claim, what was asked, how many were found, and what to do next."""

from __future__ import annotations

from med_transfer.metrics.records.class_metrics import ClassMetrics
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import INTERVALS
from med_transfer.report.section import Section
from med_transfer.report.sections.first_screen_answers import brief, detection, figures_of_the_run
from med_transfer.report.sections.first_screen_next import next_steps
from med_transfer.report.sections.first_screen_notices import notices
from med_transfer.report.sections.first_screen_trust import overlap_notices, trust_notices
from med_transfer.report.table import Cell, Table, barred


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    metrics = evidence.metrics
    all_notices = [*overlap_notices(metrics.overlap, t), *notices(evidence, t), *trust_notices(evidence, t)]
    return Section(
        t("Summary"),
        [_by_class(metrics, evidence.clustered, t)],
        values={
            "brief": brief(evidence, t),
            "facts": figures_of_the_run(evidence, t),
            "limits": [notice for notice in all_notices if notice.level == "warning"],
            "notices": [notice for notice in all_notices if notice.level != "warning"],
            "next": next_steps(evidence, t),
        },
    )


def _by_class(metrics: Metrics, clustered: bool, t: Translator) -> Table:
    interval = t(INTERVALS[metrics.evaluation.interval])
    caption = t("Bar: 95 % {interval}.", interval=interval)
    if clustered:
        caption = t(
            "Bar: the interval over patients (†), the one to rely on because some patients have several scans. "
            "Without †: 95 % {interval} over scans.",
            interval=interval,
        )
    return Table(
        "sensitivity",
        caption,
        (t("Class"), t("Sensitivity"), t("Specificity")),
        [_row(name, class_metrics, t) for name, class_metrics in metrics.classes.items()],
        kind="answer",
    )


def _row(name: str, class_metrics: ClassMetrics, t: Translator) -> tuple[Cell, ...]:
    found, wrongly = detection(class_metrics, t)
    counts = {t("found"): class_metrics.counts.true_positive, t("scans"): class_metrics.n}
    return (
        Cell(name, values={"": name, **counts}),
        barred(class_metrics.sensitivity, t, found),
        barred(class_metrics.specificity, t, wrongly),
    )
