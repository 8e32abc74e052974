"""Learning curves of the networks."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.figure import MUTED, SERIES, Figure, drawn
from med_transfer.report.run_summary import LearningCurve
from med_transfer.report.section import LeftOut, Section


def section(evidence: Evidence, t: Translator) -> Section | LeftOut | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    if not evidence.curves:
        return None
    longer = [curve for curve in evidence.curves if len(curve.epochs) > 1]
    if not longer:
        return LeftOut(t("Training"), t("no network was trained for more than one epoch"))
    return Section(t("Training"), figures=[learning_curves(longer, t)])


def learning_curves(curves: Sequence[LearningCurve], t: Translator) -> Figure:
    """Losses and the monitored figure of every network by epoch, with the epochs that were kept."""

    def draw(canvas: Canvas) -> None:
        loss, monitored = canvas.subplots(1, 2)
        for curve in curves:
            epochs = [epoch + 1 for epoch in curve.epochs]
            loss.plot(epochs, curve.train_loss, color=MUTED, linestyle="--", linewidth=1)
            loss.plot(epochs, curve.val_loss, color=SERIES[0], linewidth=1.2, alpha=0.8)
            monitored.plot(epochs, curve.monitored, color=SERIES[0], linewidth=1.2, alpha=0.8)
            kept = [k for k, epoch in enumerate(curve.epochs) if epoch == curve.best_epoch]
            for axes, figures in ((loss, curve.val_loss), (monitored, curve.monitored)):
                axes.plot([epochs[k] for k in kept], [figures[k] for k in kept], "o", color=SERIES[1], markersize=5)
        loss.set(xlabel=t("Epoch"), ylabel=t("Loss"))
        monitored.set(xlabel=t("Epoch"), ylabel=t.translated(curves[0].monitored_name))
        for axes in (loss, monitored):
            axes.xaxis.get_major_locator().set_params(integer=True)

    spoken = "; ".join(
        t("{name}: {n} epochs, epoch {best} kept", name=curve.name, n=len(curve.epochs), best=curve.best_epoch + 1)
        for curve in curves
    )
    caption = t("Solid: validation; dashed: training; one line a network. Dot: the epoch whose weights were kept.")
    return drawn("curves", t("Learning curves"), spoken, (7.0, 2.9), draw, caption=f"{caption} {spoken}.", width_rem=44)
