"""The report's figures, drawn by matplotlib as SVG that takes its colours from the page.

Each function gives one ``<svg>`` element. Colours are written as CSS variables, so that one file reads well in
light, in dark and on paper. Equal input gives equal bytes.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from med_transfer.evaluation.calibration import ReliabilityBin
from med_transfer.evaluation.metrics import Metrics
from med_transfer.evaluation.run_summary import LearningCurve

# Stand-ins that matplotlib writes and the page's CSS variables that take their place.
INK, MUTED, RULE = "#010203", "#040506", "#070809"
SERIES = tuple(f"#0a0b{k:02x}" for k in range(1, 7))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
_VARIABLES |= {colour: f"var(--series-{k})" for k, colour in enumerate(SERIES, start=1)}
_DASHES = ("-", "--", ":", "-.")

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "svg.hashsalt": "med_transfer",
    "text.parse_math": False,  # a class may be called "$x"
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def sensitivity_forest(metrics: Metrics) -> str:
    """Sensitivity of every class with its Wilson interval (thick) and, where given, by patient (thin)."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, name in enumerate(reversed(metrics.labels)):
            _forest_row(axes, row, metrics, name)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(metrics.labels) - 0.4), xlabel="Sensitivity")
        axes.set_xticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
        axes.set_yticks(range(len(metrics.labels)), [_short(name) for name in reversed(metrics.labels)])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)

    spoken = "; ".join(f"{name}: {_spoken(metrics, name)}" for name in metrics.labels)
    height = 0.8 + 0.42 * len(metrics.labels)
    return _svg("forest", f"Sensitivity by class with 95 % intervals. {spoken}.", (5.2, height), draw)


def _forest_row(axes: Axes, row: int, metrics: Metrics, name: str) -> None:
    found = metrics.classes[name].sensitivity
    if found.value is None or found.ci95 is None:
        axes.text(0.0, row, "undefined: no scan of this class", va="center", color=MUTED)
        return
    if found.ci95_cluster:
        axes.plot(found.ci95_cluster, (row, row), color=INK, linewidth=0.9, marker="|", markersize=9)
    axes.plot(found.ci95, (row, row), color=SERIES[0], linewidth=4, alpha=0.55, solid_capstyle="butt")
    axes.plot(found.value, row, marker="s", markersize=7, color=SERIES[0])


def _spoken(metrics: Metrics, name: str) -> str:
    found = metrics.classes[name].sensitivity
    if found.value is None or found.ci95 is None:
        return "undefined"
    return f"{found.value:.1%}, {found.ci95[0]:.1%} to {found.ci95[1]:.1%}"


def roc_curves(truth: NDArray[np.bool_], probabilities: NDArray[np.floating], metrics: Metrics) -> str:
    """One-against-the-rest ROC curve of every class that has one, with its operating point (dot).

    ``truth`` and ``probabilities`` are [scan, class].
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color=RULE, linewidth=1)
        for c, name in enumerate(metrics.labels):
            _roc_curve(axes, c, truth[:, c], probabilities[:, c], metrics, name)
        ticks = np.linspace(0, 1, 6)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="1 − specificity", ylabel="Sensitivity")
        axes.set(xticks=ticks, yticks=ticks, aspect="equal")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", fontsize=9)

    aucs = {name: found.auc.value for name, found in metrics.classes.items()}
    spoken = "; ".join(f"{name}: AUC {'undefined' if v is None else f'{v:.3f}'}" for name, v in aucs.items())
    return _svg("roc", f"ROC curves, one class against the rest. {spoken}.", (4.6, 4.4), draw)


def _roc_curve(
    axes: Axes, c: int, truth: NDArray[np.bool_], score: NDArray[np.floating], metrics: Metrics, name: str
) -> None:
    found = metrics.classes[name]
    if found.auc.value is None:
        return
    colour, dashes = SERIES[c % len(SERIES)], _DASHES[c // len(SERIES) % len(_DASHES)]
    false_positive_rate, true_positive_rate, _ = roc_curve(truth, score)
    label = f"{_short(name)} ({found.auc.value:.2f})"
    axes.plot(false_positive_rate, true_positive_rate, color=colour, linestyle=dashes, label=label)
    if found.sensitivity.value is not None and found.specificity.value is not None:
        axes.plot(1 - found.specificity.value, found.sensitivity.value, "o", color=colour, markersize=6)


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> str:
    """What was claimed against what came true; the area of a dot grows with its scans."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color=RULE, linewidth=1)
        claimed, observed = [b.mean_probability for b in bins], [b.observed for b in bins]
        axes.plot(claimed, observed, color=SERIES[0], linewidth=1)
        sizes = 20 + 180 * np.array([b.n for b in bins]) / max(b.n for b in bins)
        axes.scatter(claimed, observed, s=sizes, color=SERIES[0], alpha=0.6, linewidths=0)
        for b in bins:
            axes.annotate(str(b.n), (b.mean_probability, b.observed), (0, 9), textcoords="offset points", fontsize=8)
        ticks = np.linspace(0, 1, 6)
        axes.set(xlim=(-0.02, 1.05), ylim=(-0.02, 1.08), xlabel="Predicted probability", ylabel="Share that is so")
        axes.set(xticks=ticks, yticks=ticks, aspect="equal")

    spoken = "; ".join(f"predicted {b.mean_probability:.0%}, observed {b.observed:.0%} of {b.n}" for b in bins)
    return _svg("reliability", f"Reliability diagram. {spoken}.", (4.6, 4.4), draw)


def learning_curve(curve: LearningCurve, number: int = 0) -> str:
    """Losses and the monitored figure by epoch, with the epoch that was kept; ``number`` tells curves apart."""

    def draw(figure: Figure) -> None:
        loss, monitored = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        loss.plot(curve.epochs, curve.train_loss, color=MUTED, linestyle="--", linewidth=1.2, label="training")
        loss.plot(curve.epochs, curve.val_loss, color=SERIES[0], label="validation")
        loss.set_ylabel("Loss")
        loss.legend(fontsize=9, loc="best")
        monitored.plot(curve.epochs, curve.monitored, color=SERIES[0])
        monitored.set(xlabel="Epoch", ylabel=curve.monitored_name)
        monitored.xaxis.get_major_locator().set_params(integer=True)
        for axes in (loss, monitored):
            axes.axvline(curve.best_epoch, color=SERIES[1], linewidth=1)
        figure.align_ylabels()

    alt = f"Learning curve of {curve.name}: {len(curve.epochs)} epochs, epoch {curve.best_epoch} kept."
    return _svg(f"curve-{number}", alt, (3.7, 3.3), draw)


def _svg(name: str, alt: str, size_inch: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """Draw, and give an ``<svg>`` without fixed size whose ids begin with ``name``."""
    stream = io.StringIO()
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # Only used to measure text; the page's own font has the glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size_inch, layout="constrained")
        draw(figure)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(stream.getvalue(), name, alt)


def _for_page(svg: str, name: str, alt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    label = html.escape(alt, quote=True)
    opening = f'<svg class="figure" viewBox="0 0 {width} {height}" role="img" aria-label="{label}" '
    opening += 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg


def _short(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
