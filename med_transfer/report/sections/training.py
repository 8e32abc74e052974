"""Learning curves of the networks."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.figure import MUTED, SERIES, Figure, drawn
from med_transfer.report.run_summary import LearningCurve
from med_transfer.report.section import Section


def section(evidence: Evidence, t: Translator) -> Section | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    figures = [learning_curve(curve, number, t) for number, curve in enumerate(evidence.curves, start=1)]
    return Section(t("Training"), figures=figures) if figures else None


def learning_curve(curve: LearningCurve, number: int, t: Translator) -> Figure:
    """Losses and the monitored figure by epoch, with the epoch that was kept; ``number`` tells curves apart."""

    def draw(canvas: Canvas) -> None:
        loss, monitored = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        loss.plot(curve.epochs, curve.train_loss, color=MUTED, linestyle="--", linewidth=1.2, label=t("training"))
        loss.plot(curve.epochs, curve.val_loss, color=SERIES[0], label=t("validation"))
        loss.set_ylabel(t("Loss"))
        loss.legend(fontsize=9, loc="best")
        monitored.plot(curve.epochs, curve.monitored, color=SERIES[0])
        monitored.set(xlabel=t("Epoch"), ylabel=curve.monitored_name)
        monitored.xaxis.get_major_locator().set_params(integer=True)
        for axes in (loss, monitored):
            axes.axvline(curve.best_epoch, color=SERIES[1], linewidth=1)
        canvas.align_ylabels()

    words = {"name": curve.name, "n": len(curve.epochs), "best": curve.best_epoch}
    return drawn(
        f"curve-{number}",
        t("Learning curve of {name}", name=curve.name),
        t("{n} epochs, epoch {best} kept.", **words),
        (3.7, 3.3),
        draw,
        caption=t(
            "{name}: {n} epochs; vertical line: epoch {best}, whose weights were kept. Solid: validation, "
            "dashed: training.",
            **words,
        ),
    )
