"""Who was judged: scans and patients of each part, and the scans that gave no answer."""

from __future__ import annotations

from collections.abc import Mapping

from med_transfer.evaluation.metrics import Failed
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import ALL_CLASSES, SPLITS, Count, RunSummary
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table


def section(evidence: Evidence, t: Translator) -> Section:
    tables, failed = [_cohort(evidence.run, t)], evidence.metrics.failed
    if failed.n:
        tables.append(_failed(failed, t))
    return Section(t("Who was judged"), tables)


def _cohort(run: RunSummary, t: Translator) -> Table:
    parts = {"train": t("Training"), "val": t("Validation"), "test": t("Test")}
    return Table(
        "cohort",
        t("Scans (patients) in each part, divided {how}", how=run.split),
        (t("Class"), *(parts[split] for split in SPLITS)),
        [
            (t("All") if name == ALL_CLASSES else name, *(_part(run, row, split, t) for split in SPLITS))
            for name, row in run.cohort.items()
        ],
        total=True,
    )


def _part(run: RunSummary, row: Mapping[str, Count], split: str, t: Translator) -> Cell:
    """With cross-validation the training scans are the validation scans too, each by the network that left it out."""
    if split != "val" or not run.cross_validated:
        return _count(row.get(split), t)
    return Cell(t("each once"), values=_count(row.get("train"), t).values)


def _count(count: Count | None, t: Translator) -> Cell:
    if count is None:
        return Cell("–", values={t("scans"): None, t("patients"): None})
    return Cell(f"{count.scans} ({count.patients})", values={t("scans"): count.scans, t("patients"): count.patients})


def _failed(failed: Failed, t: Translator) -> Table:
    return Table(
        "failed",
        t("Scans that gave no prediction, by reason"),
        (t("Reason"), t("Scans")),
        list(failed.reasons.items()),
        kind="text",
    )
