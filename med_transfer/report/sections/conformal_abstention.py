"""Sensitivity of the scans that are called when the least certain are not."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from med_transfer.metrics.records.metrics import AbstentionPoint, Metrics
from med_transfer.page import Translator
from med_transfer.report.figure import DASHES, INK, RULE, SERIES, Figure, drawn, short
from med_transfer.report.numbers import percent
from med_transfer.report.table import Cell, Table, estimated


def abstention_table(metrics: Metrics, t: Translator) -> Table:
    """One row a share of scans that are called; beneath a sensitivity stands how much of the class is called."""
    return Table(
        "abstention",
        t("When the least certain scans are left to a human: sensitivity of those that are called"),
        (t("Called"), *(t("Sensitivity, {name}", name=name) for name in metrics.labels), t("Balanced accuracy")),
        [
            (
                _called(point),
                *(_sensitivity(point, name, t) for name in metrics.labels),
                estimated(point.balanced_accuracy, "percent", t),
            )
            for point in metrics.abstention
        ],
    )


def _called(point: AbstentionPoint) -> Cell:
    return Cell(f"{100 * point.share:.0f} %", (f"{point.n_scans}",), {"": point.share})


def _sensitivity(point: AbstentionPoint, name: str, t: Translator) -> Cell:
    cell, share = estimated(point.sensitivity[name], "percent", t), point.called[name]
    note = () if share is None else (t("{share} of the class called", share=f"{100 * share:.0f} %"),)
    return Cell(
        cell.text,
        (*cell.notes, *note),
        {**cell.values, t("share of the class called"): share},
        undefined=cell.undefined,
    )


def abstention_figure(metrics: Metrics, t: Translator) -> Figure:
    """From all scans called, on the left, to few."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for c, name in enumerate(metrics.labels):
            _curve(axes, metrics, name, SERIES[c % len(SERIES)], DASHES[c // len(SERIES) % len(DASHES)])
        shown = [point for point in metrics.abstention if point.balanced_accuracy.value is not None]
        balanced = [point.balanced_accuracy.value or 0.0 for point in shown]
        axes.plot([point.share for point in shown], balanced, color=INK, linewidth=2.2, label=t("Balanced accuracy"))
        axes.set(xlim=(1.01, 0.27), ylim=(-0.02, 1.02), xlabel=t("Share of scans called"), ylabel=t("Sensitivity"))
        axes.grid(color=RULE, linewidth=0.6)
        axes.legend(fontsize=8, loc="lower right")

    spoken = "; ".join(
        t(
            "{share} called: balanced accuracy {value}",
            share=f"{100 * point.share:.0f} %",
            value=percent(point.balanced_accuracy),
        )
        for point in metrics.abstention
    )
    title = t("Sensitivity against the share of scans called")
    caption = t(
        "A curve that rises to the right: the network knows which scans it is wrong on. A class can lose its own "
        "scans: the table says how many of each are called."
    )
    return drawn("abstention", title, spoken, (5.6, 3.6), draw, caption=caption)


def _curve(axes: Axes, metrics: Metrics, name: str, colour: str, dashes: str) -> None:
    shown = [point for point in metrics.abstention if point.sensitivity[name].value is not None]
    values = [point.sensitivity[name].value or 0.0 for point in shown]
    axes.plot([p.share for p in shown], values, "o", linestyle=dashes, color=colour, markersize=4, label=short(name))
