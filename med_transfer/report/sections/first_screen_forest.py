"""Sensitivity of every class with its interval, drawn."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import ENGLISH, Translator
from med_transfer.report.figure import INK, MUTED, RULE, SERIES, Figure, drawn, short_names
from med_transfer.report.numbers import INTERVALS, percent, percent_interval


def sensitivity_forest(metrics: Metrics, t: Translator = ENGLISH) -> Figure:
    """Sensitivity of every class with its interval (thick) and, where given, by patient (thin)."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for row, name in enumerate(reversed(metrics.labels)):
            _row(axes, row, metrics.classes[name].sensitivity, t)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(metrics.labels) - 0.4), xlabel=t("Sensitivity"))
        axes.set_xticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
        axes.set_yticks(range(len(metrics.labels)), [*short_names(metrics.labels).values()][::-1])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)

    caption = t("Square: sensitivity; bar: 95 % {interval}.", interval=t(INTERVALS[metrics.evaluation.interval]))
    if any(class_metrics.sensitivity.ci95_cluster for class_metrics in metrics.classes.values()):
        caption += " " + t(
            "Thin line: 95 % interval over patients, the one to rely on because some patients have several scans."
        )
    spoken = "; ".join(f"{name}: {_alternative_text(metrics.classes[name].sensitivity, t)}" for name in metrics.labels)
    size = (5.2, 0.8 + 0.42 * len(metrics.labels))
    return drawn("forest", t("Sensitivity of each class"), spoken, size, draw, caption=caption)


def _row(axes: Axes, row: int, sensitivity: Estimate, t: Translator) -> None:
    if sensitivity.value is None or sensitivity.ci95 is None:
        axes.text(0.0, row, t("undefined: no scan of this class"), va="center", color=MUTED)
        return
    if sensitivity.ci95_cluster:
        axes.plot(sensitivity.ci95_cluster, (row, row), color=INK, linewidth=0.9, marker="|", markersize=9)
    axes.plot(sensitivity.ci95, (row, row), color=SERIES[0], linewidth=4, alpha=0.55, solid_capstyle="butt")
    axes.plot(sensitivity.value, row, marker="s", markersize=7, color=SERIES[0])


def _alternative_text(sensitivity: Estimate, t: Translator) -> str:
    if sensitivity.value is None or sensitivity.ci95 is None:
        return t("undefined: no scan of this class")
    return f"{percent(sensitivity)} ({percent_interval(sensitivity.interval, t)})"
