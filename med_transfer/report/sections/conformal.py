"""Sets of classes that hold the true one as often as was asked, and what leaving uncertain scans to a human brings."""

from __future__ import annotations

from collections.abc import Sequence

from med_transfer.errors.numbers import rounded
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.metrics.records.prediction_sets import ClassSets, SetMetrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import percent
from med_transfer.report.section import LeftOut, Section
from med_transfer.report.sections.conformal_abstention import abstention_table
from med_transfer.report.table import Cell, Table, estimated, number, with_share


def section(evidence: Evidence, t: Translator) -> Section | LeftOut | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    metrics = evidence.metrics
    sets, left_out = metrics.prediction_sets, []
    if sets is not None and not sum(sets.sizes[:-1]):
        left_out.append(LeftOut(t("Prediction sets"), t("every set contains every class: none can be ruled out")))
        sets = None
    tables = [_coverage(sets, t), _sizes(sets, metrics, t)] if sets is not None else []
    if len(metrics.abstention) > 1:
        tables.append(abstention_table(metrics, t))
    elif metrics.abstention:
        left_out.append(LeftOut(t("Abstention"), t("the network is equally certain of all scans")))
    if not tables:
        return _both(left_out, t)
    values = {"sets": sets, "notes": _notes(sets, evidence, t) if sets is not None else []}
    return Section(t("Prediction sets and abstention"), tables, values=values, left_out=left_out)


def _both(left_out: Sequence[LeftOut], t: Translator) -> LeftOut | None:
    if len(left_out) < 2:
        return next(iter(left_out), None)
    return LeftOut(t("Prediction sets and abstention"), t(", ").join(part.why for part in left_out))


def _coverage(sets: SetMetrics, t: Translator) -> Table:
    target, nothing = Cell(f"{100 * sets.target:g} %", values={"": sets.target}), number(None, str)
    rows = [(name, target, *_row(class_sets, t)) for name, class_sets in sets.classes.items()]
    return Table(
        "coverage",
        t("How often the set of a scan contains the scan's class, by class"),
        (
            t("Class"),
            t("Target"),
            t("Achieved on the evaluated scans"),
            t("In the set from a probability of"),
            t("Validation patients"),
        ),
        [*rows, (t("All"), target, estimated(sets.coverage, "percent", t), nothing, nothing)],
        total=True,
    )


def _row(class_sets: ClassSets, t: Translator) -> list[Cell | int]:
    always = t("always") if class_sets.threshold == 0 else rounded(class_sets.threshold, 3)
    return [
        estimated(class_sets.coverage, "percent", t),
        Cell(always, values={"": class_sets.threshold}),
        class_sets.n_patients,
    ]


def _sizes(sets: SetMetrics, metrics: Metrics, t: Translator) -> Table:
    return Table(
        "sizes",
        t("Number of classes in the sets ({mean} on average)", mean=f"{sets.mean_size:.2f}"),
        (t("Classes in the set"), t("Test scans")),
        [(str(size), with_share(n, metrics.n_scans, t)) for size, n in enumerate(sets.sizes)],
    )


def _notes(sets: SetMetrics, evidence: Evidence, t: Translator) -> list[str]:
    notes = []
    if sets.short_of_target:
        notes.append(t("Below the target, beyond chance: {classes}.", classes=t(", ").join(sets.short_of_target)))
    always = [name for name, class_sets in sets.classes.items() if class_sets.threshold == 0]
    if always:
        notes.append(
            t(
                "In every set, because too few validation patients are available to rule it out: {classes}.",
                classes=t(", ").join(always),
            )
        )
    single = sets.right_when_single
    if single is not None and single.value is not None:
        notes.append(t("Of the sets with exactly one class, {share} contain the true class.", share=percent(single)))
    if evidence.model == "fused model":
        notes.append(t("The sets are based on the network's own probabilities, not on the fused ones."))
    return notes
