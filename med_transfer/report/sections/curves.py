"""ROC curves, one class against the rest, with the operating point on each."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from med_transfer.errors.numbers import rounded
from med_transfer.metrics.records.class_metrics import ClassMetrics
from med_transfer.metrics.records.metrics import Metrics
from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.figure import DASHES, RULE, SERIES, Figure, drawn, short_names
from med_transfer.report.section import LeftOut, Section


def section(evidence: Evidence, t: Translator) -> Section | LeftOut | None:
    """This part of the report in the language of ``t``; None where there is nothing to show."""
    if evidence.truth is None or evidence.probabilities is None:
        return None
    if all(class_metrics.auc.value is None for class_metrics in evidence.metrics.classes.values()):
        return LeftOut(t("ROC curves"), t("no class has both cases and other scans"))
    return Section(t("ROC curves"), figures=[roc_curves(evidence.truth, evidence.probabilities, evidence.metrics, t)])


def roc_curves(
    truth: NDArray[np.bool_], probabilities: NDArray[np.floating], metrics: Metrics, t: Translator
) -> Figure:
    """Of every class that has one; ``truth`` and ``probabilities`` are [scan, class]."""

    n_curves = sum(class_metrics.auc.value is not None for class_metrics in metrics.classes.values())
    below = 0.1 + 0.18 * -(-n_curves // 2)  # inches for the legend, which would cover curves near or below chance

    def draw(canvas: Canvas) -> None:
        axes, shown = canvas.subplots(), short_names(list(metrics.classes))
        axes.plot((0, 1), (0, 1), color=RULE, linewidth=1)
        for c, (name, class_metrics) in enumerate(metrics.classes.items()):
            if class_metrics.auc.value is not None:
                _curve(
                    axes,
                    c,
                    truth[:, c],
                    probabilities[:, c],
                    f"{shown[name]} ({rounded(class_metrics.auc.value, 2)})",
                    class_metrics,
                )
        ticks = np.linspace(0, 1, 6)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set(xlabel=t("1 − specificity (false positive rate)"), ylabel=t("Sensitivity (true positive rate)"))
        axes.set(xticks=ticks, yticks=ticks, aspect="equal")
        canvas.legend(loc="outside lower center", ncols=2, fontsize=8)

    aucs = {name: class_metrics.auc.value for name, class_metrics in metrics.classes.items()}
    spoken = "; ".join(f"{name}: AUC {t('undefined') if v is None else rounded(v, 3)}" for name, v in aucs.items())
    return drawn(
        "roc",
        t("ROC curves, one class against the rest"),
        spoken,
        (4.6, 4.4 + below),
        draw,
        caption=t("Each class against the rest, AUC in brackets. Dot: the operating point. Grey line: chance."),
        width_rem=29,
    )


def _curve(
    axes: Axes, c: int, truth: NDArray[np.bool_], score: NDArray[np.floating], label: str, class_metrics: ClassMetrics
) -> None:
    colour, dashes = SERIES[c % len(SERIES)], DASHES[c // len(SERIES) % len(DASHES)]
    false_positive_rate, true_positive_rate, _ = roc_curve(truth, score)
    axes.plot(false_positive_rate, true_positive_rate, color=colour, linestyle=dashes, label=label)
    if class_metrics.sensitivity.value is not None and class_metrics.specificity.value is not None:
        axes.plot(1 - class_metrics.specificity.value, class_metrics.sensitivity.value, "o", color=colour, markersize=6)
