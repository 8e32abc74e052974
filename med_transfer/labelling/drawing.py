"""Plot of the learning curves: measurements, fit with its interval, target, and extrapolation."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from med_transfer.atomic import atomic_path
from med_transfer.labelling.curve_samples import ALL_CLASSES
from med_transfer.labelling.label_forecast import Forecast, rounded_up
from med_transfer.labelling.learning_curve import PowerLaw
from med_transfer.labelling.record import Budget

_COLOUR, _TARGET = "#1f5fa8", "#b3541e"
_STYLE: dict = {
    "text.parse_math": False,  # a class can be called "$x"
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_TITLE_LETTERS = 48  # in a line of a panel's title
_MIN_TICK_RATIO = 1.25  # between neighbouring ticks, so that their labels do not overlap


def draw_curves(budget: Budget, path: Path) -> None:
    """Plot one panel per forecast, two in a row, as PNG. Raises OutputError."""
    with rc_context(_STYLE), atomic_path(path) as temporary:
        curves_figure(budget).savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def curves_figure(budget: Budget) -> Figure:
    """The plot with its legend below the panels, where it covers no curve."""
    n = len(budget.forecasts)
    columns, rows = min(n, 2), -(-n // 2)
    figure = Figure(figsize=(5.2 * columns, 3.8 * rows + 0.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes, forecast in zip(panels, budget.forecasts, strict=False):
        _draw(axes, forecast, budget.settings.measure.replace("macro_auc", "macro AUC"))
    for axes in panels[n:]:
        axes.set_visible(False)
    entries: dict = {}
    for axes in panels[:n]:
        entries |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns + 1, fontsize=8, frameon=False)
    figure.suptitle(f"{budget.settings.way}, {budget.backbone}", fontsize=10, wrap=True)
    return figure


def _draw(axes: Axes, forecast: Forecast, measure: str) -> None:
    samples = forecast.samples
    present = float(samples.patients[-1])
    low, high = np.array([interval or (np.nan, np.nan) for interval in samples.intervals]).T
    axes.vlines(samples.patients, low, high, color=_COLOUR, linewidth=1)
    axes.plot(samples.patients, samples.values, "o", color=_COLOUR, label="measured, 95 % interval")
    if forecast.curve is not None:
        _draw_fit(axes, forecast, forecast.curve, present)
    axes.axhline(forecast.target, color=_TARGET, linewidth=1, linestyle=":", label=f"target {forecast.target:g}")
    of_class = "" if forecast.name == ALL_CLASSES else " of this class"
    axes.set(xlabel=f"training patients{of_class}, in a fold (log scale)", ylabel=measure, ylim=(0, 1.02), xscale="log")
    ticks = _ticks([float(size) for size in samples.patients], present * forecast.multiple if forecast.curve else None)
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_title(textwrap.fill(f"{forecast.name}: {_outcome(forecast)}", _TITLE_LETTERS), fontsize=10)


def _outcome(forecast: Forecast) -> str:
    if forecast.outcome == "forecast":
        return f"about {rounded_up(forecast.more or 0)} more labelled patients"
    if forecast.outcome == "out of reach":
        return f"not foreseen within {forecast.multiple:g} times the patients"
    return "target reached" if forecast.outcome == "reached" else "no forecast"


def _ticks(sizes: list[float], farthest: float | None) -> list[float]:
    """The sizes, from the largest down, without those that lie close to another; and the end of the extrapolation."""
    kept = [] if farthest is None else [farthest]
    for size in reversed(sizes):
        if not kept or size * _MIN_TICK_RATIO <= kept[-1]:
            kept.append(size)
    return kept[::-1]


def _draw_fit(axes: Axes, forecast: Forecast, curve: PowerLaw, present: float) -> None:
    seen = np.geomspace(curve.smallest, present, 60)
    beyond = np.geomspace(present, present * forecast.multiple, 60)
    both = np.concatenate([seen, beyond])
    low, high = np.percentile([resampled.at(both) for resampled in forecast.curves], [2.5, 97.5], axis=0)
    axes.fill_between(both, low, high, color=_COLOUR, alpha=0.15, linewidth=0, label="95 % interval of the curve")
    axes.plot(seen, curve.at(seen), color=_COLOUR, linewidth=1.5, label="fitted")
    axes.plot(beyond, curve.at(beyond), color=_COLOUR, linewidth=1.5, linestyle="--", label="extrapolated")
    if forecast.outcome == "forecast":
        needed = curve.needed(forecast.target)
        axes.axvline(needed, color=_TARGET, linewidth=1, label="the curve reaches the target")
