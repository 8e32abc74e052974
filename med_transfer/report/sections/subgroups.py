"""For whom it works: the same measures among groups of the test scans, and whether the groups differ."""

from __future__ import annotations

import re
from collections.abc import Mapping

from med_transfer.metrics.records.metrics import Metrics
from med_transfer.metrics.records.subgroups import Subgroup, SubgroupTest
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.section import LeftOut, Section
from med_transfer.report.subgroup_name import subgroup_name
from med_transfer.report.table import Cell, Table, barred, estimated, number, without_absent


def section(evidence: Evidence, t: Translator) -> Section | LeftOut | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    metrics = evidence.metrics
    if not metrics.subgroup_tests and not any(metrics.subgroups.values()):
        return None
    tests = {column: test for column, test in metrics.subgroup_tests.items() if test.p_value is not None}
    left_out = _not_compared(metrics.subgroup_tests, t)
    shown = {
        column: groups
        for column, groups in metrics.subgroups.items()
        if column in tests or (column not in metrics.subgroup_tests and groups)
    }
    if not tests and not shown:
        return LeftOut(t("Subgroups"), t("; ").join(f"{part.title}: {part.why}" for part in left_out))
    tables = [_table(number, column, groups, metrics, t) for number, (column, groups) in enumerate(shown.items(), 1)]
    return Section(
        t("Subgroups"),
        [*([_tests(tests, t)] if tests else []), *tables],
        values={"by_column": [table.name.replace("-", "_") for table in tables]},
        left_out=[LeftOut(t("Subgroups of {columns}", columns=part.title), part.why) for part in left_out],
    )


def _not_compared(tests: Mapping[str, SubgroupTest], t: Translator) -> list[LeftOut]:
    """Columns of which nothing may be concluded, by reason."""
    columns: dict[str, list[str]] = {}
    for column, test in tests.items():
        if test.p_value is None:
            columns.setdefault(t.translated(test.reason), []).append(column)
    return [LeftOut(t(", ").join(names), reason) for reason, names in columns.items()]


def _tests(tests: Mapping[str, SubgroupTest], t: Translator) -> Table:
    return Table(
        "tests",
        t("Whether the classes are found equally often in the subgroups of each column"),
        (t("Column"), t("Subgroups compared"), t("p"), t("p, corrected"), t("Conclusion")),
        [(_column(column, test, t), *_row(test, t)) for column, test in tests.items()],
        kind="text",
    )


def _column(column: str, test: SubgroupTest, t: Translator) -> Cell:
    notes = (t.translated(test.how),) if test.how else ()
    if test.same_as:
        notes += (t("groups the scans in the same way as {columns}", columns=t(", ").join(test.same_as)),)
    return Cell(column, notes, {"": column})


def _row(test: SubgroupTest, t: Translator) -> list[Cell]:
    names = t(", ").join(subgroup_name(group, t) for group in test.compared)
    compared = Cell(names or "–", values={"": "; ".join(test.compared)})
    p_values = (number(p_value, "{:.2g}".format) for p_value in (test.p_value, test.p_holm))
    return [compared, *p_values, Cell(conclusion(test, t))]


def conclusion(test: SubgroupTest, t: Translator) -> str:
    """What may be concluded, and what may not."""
    if test.differ:
        return t("They differ beyond chance.")
    return t(
        "No difference was shown, which does not prove equality: the smallest subgroup compared has {n} patients.",
        n=test.fewest_patients,
    )


def _table(number: int, column: str, groups: Mapping[str, Subgroup], metrics: Metrics, t: Translator) -> Table:
    safe = re.sub(r"[^a-z0-9]+", "-", column.lower()).strip("-")
    return Table(
        f"{number}-{safe}" if safe else str(number),
        t("By {column}", column=column),
        (
            column,
            t("Scans (patients)"),
            t("Balanced accuracy"),
            *(t("Sensitivity, {name}", name=name) for name in metrics.labels),
            t("Macro AUC"),
        ),
        [(subgroup_name(value, t), *_group(group, metrics.labels, t)) for value, group in groups.items()],
    )


def _group(group: Subgroup, labels: list[str], t: Translator) -> list[Cell]:
    counts = Cell(f"{group.n} ({group.n_patients})", values={t("scans"): group.n, t("patients"): group.n_patients})
    rates = [estimated(group.sensitivity[name], "percent", t) for name in labels]
    balanced = barred(
        group.balanced_accuracy, t, *without_absent(group.balanced_accuracy, group.absent, group.sensitivity, t)
    )
    return [counts, balanced, *rates, estimated(group.macro_auc, "decimal", t)]
