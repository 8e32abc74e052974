"""Balanced accuracy of every subgroup with its interval, drawn column by column."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.figure import INK, MUTED, RULE, SERIES, Figure, drawn, short
from med_transfer.report.numbers import percent, percent_interval


def subgroup_forest(metrics: Metrics, t: Translator) -> Figure:
    """One row a subgroup under the name of its column; the vertical line is all test scans."""
    rows: list[tuple[str, Estimate | None]] = []
    for column, groups in metrics.subgroups.items():
        rows += [(column, None)] if groups else []
        rows += [
            (f"{value or t('(empty)')} ({group.n_patients})", group.balanced_accuracy)
            for value, group in groups.items()
        ]

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for place, (_, accuracy) in enumerate(reversed(rows)):
            if accuracy is None:
                continue
            if accuracy.value is None or accuracy.ci95 is None:
                axes.text(0.0, place, t("too few patients"), va="center", color=MUTED)
                continue
            axes.plot(accuracy.ci95, (place, place), color=SERIES[0], linewidth=4, alpha=0.55, solid_capstyle="butt")
            axes.plot(accuracy.value, place, marker="s", markersize=6, color=SERIES[0])
        if metrics.balanced_accuracy.value is not None:
            axes.axvline(metrics.balanced_accuracy.value, color=INK, linewidth=0.9, linestyle="--")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(rows) - 0.4), xlabel=t("Balanced accuracy"))
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], [f"{share:.0%}" for share in (0, 0.2, 0.4, 0.6, 0.8, 1)])
        axes.set_yticks(range(len(rows)), [short(name, 30) for name, _ in reversed(rows)])
        for label, (_, accuracy) in zip(axes.get_yticklabels(), reversed(rows), strict=True):
            label.set_fontweight("bold" if accuracy is None else "normal")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)

    spoken = "; ".join(f"{name}: {_spoken(accuracy, t)}" for name, accuracy in rows if accuracy is not None)
    caption = t(
        "Square: balanced accuracy in the subgroup (patients in brackets); bar: 95 % interval; dashed: all test scans."
    )
    title = t("Balanced accuracy of each subgroup")
    return drawn("forest", title, spoken, (6.4, 0.8 + 0.3 * len(rows)), draw, caption=caption)


def _spoken(accuracy: Estimate, t: Translator) -> str:
    if accuracy.value is None:
        return t("too few patients")
    return f"{percent(accuracy)} ({percent_interval(accuracy.ci95, t)})"
