"""The same measures among groups of the test scans."""

from __future__ import annotations

import re
from collections.abc import Mapping

from med_transfer.evaluation.metrics import Subgroup
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, estimated


def section(evidence: Evidence, t: Translator) -> Section | None:
    found, labels = evidence.metrics.subgroups, evidence.metrics.labels
    tables = [_table(number, column, groups, labels, t) for number, (column, groups) in enumerate(found.items(), 1)]
    return Section(t("Subgroups"), tables) if tables else None


def _table(number: int, column: str, groups: Mapping[str, Subgroup], labels: list[str], t: Translator) -> Table:
    safe = re.sub(r"[^a-z0-9]+", "-", column.lower()).strip("-")
    return Table(
        f"{number}-{safe}" if safe else str(number),
        t("By {column}", column=column),
        (
            column, t("Scans (patients)"), *(t("Sensitivity, {name}", name=name) for name in labels), t("Macro AUC"),
        ),
        [(value or t("(empty)"), *_group(group, labels, t)) for value, group in groups.items()],
    )  # fmt: skip


def _group(group: Subgroup, labels: list[str], t: Translator) -> list[Cell]:
    counts = Cell(f"{group.n} ({group.n_patients})", values={t("scans"): group.n, t("patients"): group.n_patients})
    rates = [estimated(group.sensitivity[name], "percent", t) for name in labels]
    return [counts, *rates, estimated(group.macro_auc, "decimal", t)]
