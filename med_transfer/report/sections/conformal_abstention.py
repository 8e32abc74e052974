"""Sensitivity of the scans that are called when the least certain are not."""

from __future__ import annotations

from dataclasses import replace

from med_transfer.metrics.records.metrics import AbstentionPoint, Metrics
from med_transfer.page import Translator
from med_transfer.report.numbers import whole
from med_transfer.report.table import Cell, Table, estimated, without_absent


def abstention_table(metrics: Metrics, t: Translator) -> Table:
    """One row a share of scans that are called; beneath a sensitivity stands how much of the class is called."""
    return Table(
        "abstention",
        t("Sensitivity among the scans that are called when the least certain are left to a human reader"),
        (t("Called"), *(t("Sensitivity, {name}", name=name) for name in metrics.labels), t("Balanced accuracy")),
        [
            (
                _called(point),
                *(_sensitivity(point, name, t) for name in metrics.labels),
                _balanced_accuracy(point, t),
            )
            for point in metrics.abstention
        ],
    )


def _balanced_accuracy(point: AbstentionPoint, t: Translator) -> Cell:
    cell = estimated(point.balanced_accuracy, "percent", t)
    return replace(
        cell, notes=(*cell.notes, *without_absent(point.balanced_accuracy, point.absent, point.sensitivity, t))
    )


def _called(point: AbstentionPoint) -> Cell:
    return Cell(whole(point.share), (f"{point.n_scans}",), {"": point.share})


def _sensitivity(point: AbstentionPoint, name: str, t: Translator) -> Cell:
    cell, share = estimated(point.sensitivity[name], "percent", t), point.called[name]
    note = () if share is None else (t("{share} of the class called", share=whole(share)),)
    return replace(cell, notes=(*cell.notes, *note), values={**cell.values, t("share of the class called"): share})
