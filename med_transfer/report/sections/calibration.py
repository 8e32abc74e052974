"""Do probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from med_transfer.errors.numbers import whole_percent
from med_transfer.metrics.records.calibration import BrierDecomposition, ReliabilityBin
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.figure import RULE, SERIES, Figure, drawn
from med_transfer.report.numbers import tenths, written
from med_transfer.report.section import Section
from med_transfer.report.table import Cell, Table, estimated, number


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    metrics = evidence.metrics
    caption = (
        t("Predicted probability against observed frequency, all findings; the number is the number of findings.")
        if metrics.multilabel
        else t(
            "Predicted probability against observed frequency, for the most probable class, whichever is called; the "
            "number is the number of scans."
        )
    )
    caption += " " + t("On the line, predicted and observed agree.")
    by_class = [_by_class(metrics, t)] if metrics.calibration.classes else []
    return Section(
        t("Calibration"),
        [_scores(metrics, t), _in_the_large(metrics, t), *by_class],
        [reliability_diagram(metrics.calibration.bins, caption, t)],
    )


def _scores(metrics: Metrics, t: Translator) -> Table:
    calibration = metrics.calibration
    rows: list[Sequence[Cell | str]] = [(t("Brier score"), estimated(calibration.brier, "decimal", t))]
    if calibration.decomposition is not None:
        parts = _parts(calibration.decomposition)
        names = (
            t("Reliability (lower is better)"),
            t("Resolution (higher is better)"),
            t("Uncertainty of the outcome"),
        )
        rows += zip(names, parts, strict=True)
    rows.append((t("Expected calibration error"), estimated(calibration.ece, "decimal", t)))
    if calibration.slope is not None:
        rows.append((t("Slope (ideal: 1)"), estimated(calibration.slope, "decimal", t)))
    if calibration.intercept is not None:
        rows.append((t("Intercept (ideal: 0)"), estimated(calibration.intercept, "signed", t)))
    return Table("scores", t("All classes together"), (t("Measure"), t("Value")), rows)


def _by_class(metrics: Metrics, t: Translator) -> Table:
    return Table(
        "by-class",
        t("Each class against the rest"),
        (
            t("Class"),
            t("Brier score"),
            t("Reliability"),
            t("Resolution"),
            t("Uncertainty"),
            t("Expected calibration error"),
            t("Slope"),
            t("Intercept"),
        ),
        [
            (
                name,
                estimated(class_calibration.brier, "decimal", t),
                *_parts(class_calibration.decomposition),
                estimated(class_calibration.ece, "decimal", t),
                estimated(class_calibration.slope, "decimal", t),
                estimated(class_calibration.intercept, "signed", t),
            )
            for name, class_calibration in metrics.calibration.classes.items()
        ],
    )


def _parts(decomposition: BrierDecomposition) -> list[Cell]:
    values = (decomposition.reliability, decomposition.resolution, decomposition.uncertainty)
    return [number(value, written) for value in values]


def _in_the_large(metrics: Metrics, t: Translator) -> Table:
    mean = metrics.calibration.mean_probability
    return Table(
        "in-the-large",
        t("Calibration in the large: the two columns should agree"),
        (t("Class"), t("Mean predicted probability"), t("Observed frequency")),
        [(name, number(mean[name], tenths), number(metrics.prevalence[name], tenths)) for name in metrics.labels],
    )


def reliability_diagram(bins: Sequence[ReliabilityBin], caption: str, t: Translator) -> Figure:
    """What was claimed against what came true; the area of a dot grows with its scans."""

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        axes.plot((0, 1), (0, 1), color=RULE, linewidth=1)
        claimed, observed = [b.mean_probability for b in bins], [b.observed for b in bins]
        axes.plot(claimed, observed, color=SERIES[0], linewidth=1)
        sizes = 20 + 180 * np.array([b.n for b in bins]) / max(b.n for b in bins)
        axes.scatter(claimed, observed, s=sizes, color=SERIES[0], alpha=0.6, linewidths=0)
        for b in bins:
            axes.annotate(str(b.n), (b.mean_probability, b.observed), (0, 9), textcoords="offset points", fontsize=8)
        ticks = np.linspace(0, 1, 6)
        axes.set(xlim=(-0.02, 1.05), ylim=(-0.02, 1.08))
        axes.set(xlabel=t("Predicted probability"), ylabel=t("Observed frequency"))
        axes.set(xticks=ticks, yticks=ticks, aspect="equal")

    spoken = "; ".join(
        t(
            "predicted {predicted}, observed {observed} of {n}",
            predicted=whole_percent(b.mean_probability),
            observed=whole_percent(b.observed),
            n=b.n,
        )
        for b in bins
    )
    title = t("Reliability diagram")
    return drawn("reliability", title, spoken, (4.6, 4.4), draw, caption=caption, width_rem=29)
