"""Who was evaluated: scans and patients from the table to the call, and the scans that gave no answer."""

from __future__ import annotations

from collections.abc import Mapping

from med_transfer.metrics.records.metrics import Failed
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import Count, RunSummary
from med_transfer.report.section import Section
from med_transfer.report.sections.flow_diagram import flow_diagram
from med_transfer.report.table import Cell, Table


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    tables, failed, flow = [_cohort(evidence.run, t)], evidence.metrics.failed, evidence.run.flow
    if failed.n:
        tables.append(_failed(failed, t))
    return Section(
        t("Who was evaluated"),
        tables,
        [flow_diagram(flow, evidence, t)] if flow else [],
        {"unusable": _unusable(evidence, t)},
    )


def _unusable(evidence: Evidence, t: Translator) -> str:
    """What became of the scans that could not be used: of a run's test part nobody knows how many are missing."""
    failed, flow = evidence.metrics.failed.n, evidence.run.flow
    if not failed:
        return t("Every scan gave a prediction.")
    if flow and set(flow.parts) != {"test"}:
        return t(
            "{n} of the {asked} scans in the cohort table could not be used. They were excluded before the split, so "
            "they belong to no part and to no rate in this report.",
            n=failed,
            asked=flow.found.scans,
        )
    return t(
        "{n} of {asked} scans gave no prediction. They are excluded from all rates in this report.",
        n=failed,
        asked=evidence.n_asked,
    )


def _cohort(run: RunSummary, t: Translator) -> Table:
    parts = {"train": t("Training"), "val": t("Validation"), "test": t("Test")}
    if run.flow:
        shown = {*run.flow.parts, *(["val"] if run.cross_validated else [])}
        parts = {split: name for split, name in parts.items() if split in shown}
    total = [*run.cohort][-1:]
    return Table(
        "cohort",
        t("Scans (patients) in each part, split {how}", how=run.split),
        (t("Class"), *parts.values()),
        [
            (t("All") if [name] == total else name, *(_part(run, row, split, t) for split in parts))
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
        t("Scans without a prediction, by reason"),
        (t("Reason"), t("Scans")),
        [(t.translated(reason), n) for reason, n in failed.reasons.items()],
        kind="text",
    )
