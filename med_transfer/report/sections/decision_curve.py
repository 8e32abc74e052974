"""Decision curves: is acting on the probabilities better than treating everyone or no one, and at which thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from med_transfer.metrics.calibration import FEWEST_PATIENTS
from med_transfer.metrics.records.decision_curve import DecisionCurve, NetBenefit
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.figure import INK, MUTED, SERIES, Figure, drawn, short_names
from med_transfer.report.numbers import tenths
from med_transfer.report.section import LeftOut, Section
from med_transfer.report.table import Cell, Table, number

_COLUMNS = 3  # of panels


def section(evidence: Evidence, t: Translator) -> Section | LeftOut | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    metrics = evidence.metrics
    enough = [name for name in metrics.labels if _enough(metrics, name)]
    if not enough:
        few = t("fewer than {n} patients with or without each class", n=FEWEST_PATIENTS)
        return LeftOut(t("Decision curves"), few)
    curves = {name: curve for name, curve in metrics.decision_curves.items() if name in enough}
    if not curves:
        return None
    metrics = metrics.model_copy(update={"decision_curves": curves})
    missing = [name for name in metrics.labels if name not in curves]
    return Section(
        t("Decision curves"),
        [_useful(metrics, t), _points(metrics, t)],
        [net_benefit(metrics, t)],
        values={"missing": t(", ").join(missing)},
    )


def _enough(metrics: Metrics, name: str) -> bool:
    """Patients with the class and without it; a record of an earlier version may have curves of fewer.

    A patient with scans of several classes is among both.
    """
    of_class = metrics.classes[name]
    n_without = metrics.n_patients - of_class.n_patients
    if "specificity" in of_class.sample_size:
        n_without = of_class.sample_size["specificity"].n_patients
    return min(of_class.n_patients, n_without) >= FEWEST_PATIENTS


def _useful(metrics: Metrics, t: Translator) -> Table:
    return Table(
        "useful",
        t(
            "Thresholds at which acting on the probability is better than treating everyone and than treating no one, "
            "by the 95 % interval of each threshold on its own: of {n}, some may appear so by chance",
            n=max(len(curve.points) for curve in metrics.decision_curves.values()),
        ),
        (t("Class"), t("Prevalence"), t("Thresholds")),
        [
            (name, number(metrics.prevalence[name], tenths), _ranges(curve.points) or t("none shown"))
            for name, curve in metrics.decision_curves.items()
        ],
        kind="text",
    )


def _ranges(points: Sequence[NetBenefit]) -> str:
    """Neighbouring thresholds joined, for example ``5 % to 30 %; 50 %``."""
    runs: list[list[float]] = []
    for before, point in zip([None, *points], points, strict=False):
        if point.useful and before is not None and before.useful:
            runs[-1].append(point.threshold)
        elif point.useful:
            runs.append([point.threshold])
    return "; ".join(" – ".join(f"{100 * x:g} %" for x in dict.fromkeys((run[0], run[-1]))) for run in runs)


def _points(metrics: Metrics, t: Translator) -> Table:
    """For the file alone: too long for the page, which has the figure."""
    columns = (
        t("Class"),
        t("Threshold"),
        t("Net benefit"),
        t("95 % CI, low"),
        t("95 % CI, high"),
        t("Treat everyone"),
        t("Gain"),
        t("Gain, low"),
        t("Gain, high"),
    )
    rows = [(name, *_row(point)) for name, curve in metrics.decision_curves.items() for point in curve.points]
    return Table("points", t("Net benefit at every threshold"), columns, rows)


def _row(point: NetBenefit) -> list[Cell]:
    none = (None, None)
    values = (
        point.threshold,
        point.net_benefit,
        *(point.ci95 or none),
        point.treat_all,
        point.gain,
        *(point.gain_ci95 or none),
    )
    return [number(value, "{:.3f}".format) for value in values]


def net_benefit(metrics: Metrics, t: Translator) -> Figure:
    """One panel a class."""
    curves = metrics.decision_curves
    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(rows, columns, squeeze=False, sharex=True)
        titles = short_names(list(curves))
        for axes, (name, curve) in zip(panels.flat, curves.items(), strict=False):
            _panel(axes, titles[name], curve, metrics.prevalence[name], t)
        for axes in list(panels.flat)[len(curves) :]:
            axes.remove()
        for axes in panels[:, 0]:
            axes.set_ylabel(t("Net benefit"))
        panels.flat[0].legend(fontsize=8)

    spoken = "; ".join(
        t("{name}: better at thresholds {ranges}", name=name, ranges=_ranges(curve.points) or t("none shown"))
        for name, curve in curves.items()
    )
    caption = t(
        "Net benefit in true positives per scan: a false positive costs the odds of the threshold. Band: 95 % "
        "interval of each threshold on its own. Dashed: treat everyone; line at 0: treat no one."
    )
    size = (2.6 * columns + 0.8, 2.5 * rows + 0.4)
    return drawn("net-benefit", t("Decision curves"), spoken, size, draw, caption=caption, width_rem=14 * columns + 5)


def _panel(axes: Axes, title: str, curve: DecisionCurve, prevalence: float, t: Translator) -> None:
    thresholds = np.array([point.threshold for point in curve.points])
    benefit = [point.net_benefit for point in curve.points]
    low, high = np.array([point.ci95 or (np.nan, np.nan) for point in curve.points]).T
    axes.axhline(0, color=MUTED, linewidth=0.9)
    axes.plot(
        thresholds, [point.treat_all for point in curve.points], "--", color=INK, linewidth=1, label=t("Treat everyone")
    )
    axes.fill_between(thresholds, low, high, color=SERIES[0], alpha=0.2, linewidth=0)
    axes.plot(thresholds, benefit, color=SERIES[0], label=t("Act on the probability"))
    axes.set_title(title, fontsize=10)
    axes.set(xlim=(0, 1), ylim=(-0.3 * prevalence, 1.15 * max(prevalence, np.nanmax(high))))
    axes.set_xlabel(t("Threshold probability"))
