"""True class against called class: a k x k table, or one 2 x 2 table a finding."""

from __future__ import annotations

from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, with_share


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    metrics = evidence.metrics
    if metrics.confusion_matrix is None:
        return Section(t("Calls by finding"), [_by_finding(metrics, t)])
    return Section(t("Confusion matrix"), [_matrix(metrics, metrics.confusion_matrix, t)])


def _matrix(metrics: Metrics, counts: list[list[int]], t: Translator) -> Table:
    rows: list[list[Cell | str | int]] = []
    for truth, (name, row) in enumerate(zip(metrics.labels, counts, strict=True)):
        rows.append([name, *(_cell(n, sum(row), predicted == truth, t) for predicted, n in enumerate(row)), sum(row)])
    return Table(
        "matrix",
        t("Scans by true class (row) and called class (column), with row percentages. Shading follows the percentage."),
        (t("True class"), *metrics.labels, t("All")),
        rows,
        over=t("Called"),
        kind="matrix",
    )


def _cell(n: int, of: int, right: bool, t: Translator) -> Cell:
    cell = with_share(n, of, t)
    return Cell(cell.text, cell.notes, cell.values, share=cell.share, strong=right)


def _by_finding(metrics: Metrics, t: Translator) -> Table:
    counts = {name: class_metrics.counts for name, class_metrics in metrics.classes.items()}
    return Table(
        "by-finding",
        t("A scan can have several findings, so each finding has a two-by-two table instead of one confusion matrix."),
        (t("Finding"), t("True positive"), t("False negative"), t("False positive"), t("True negative")),
        [(name, n.true_positive, n.false_negative, n.false_positive, n.true_negative) for name, n in counts.items()],
    )
