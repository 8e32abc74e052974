"""Plot of the learning curves: measurements, fit with its interval, target, and extrapolation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from med_transfer.atomic import atomic_path
from med_transfer.labelling.label_forecast import Forecast
from med_transfer.labelling.learning_curve import PowerLaw
from med_transfer.labelling.record import Budget

_COLOUR, _TARGET = "#1f5fa8", "#b3541e"
_STYLE: dict = {
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}  # a class can be called "$x"


def draw_curves(budget: Budget, path: Path) -> None:
    """Plot one panel per forecast, two in a row, as PNG. Raises OutputError."""
    n = len(budget.forecasts)
    columns, rows = min(n, 2), -(-n // 2)
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.2 * columns, 3.8 * rows), layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for axes, forecast in zip(panels, budget.forecasts, strict=False):
            _draw(axes, forecast, budget.settings.measure.replace("macro_auc", "macro AUC"))
        for axes in panels[n:]:
            axes.set_visible(False)
        figure.suptitle(f"{budget.settings.way}, {budget.backbone}", fontsize=10, wrap=True)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _draw(axes: Axes, forecast: Forecast, measure: str) -> None:
    samples = forecast.samples
    present = float(samples.patients[-1])
    drawn = samples.draws[np.isfinite(samples.draws).all(axis=1)]
    if len(drawn):
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        axes.vlines(samples.patients, low, high, color=_COLOUR, linewidth=1)
    axes.plot(samples.patients, samples.values, "o", color=_COLOUR, label="measured, 95 % interval")
    if forecast.curve is not None:
        _draw_fit(axes, forecast, forecast.curve, present)
    axes.axhline(forecast.target, color=_TARGET, linewidth=1, linestyle=":", label=f"target {forecast.target:g}")
    axes.set(xlabel="patients to learn from", ylabel=measure, ylim=(0, 1.02), xscale="log")
    ticks = [float(size) for size in samples.patients] + ([present * forecast.multiple] if forecast.curve else [])
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_title(f"{forecast.name}: {forecast.outcome}", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_fit(axes: Axes, forecast: Forecast, curve: PowerLaw, present: float) -> None:
    seen = np.geomspace(curve.smallest, present, 60)
    beyond = np.geomspace(present, present * forecast.multiple, 60)
    both = np.concatenate([seen, beyond])
    low, high = np.percentile([resampled.at(both) for resampled in forecast.curves], [2.5, 97.5], axis=0)
    axes.fill_between(both, low, high, color=_COLOUR, alpha=0.15, linewidth=0)
    axes.plot(seen, curve.at(seen), color=_COLOUR, linewidth=1.5, label="fitted")
    axes.plot(beyond, curve.at(beyond), color=_COLOUR, linewidth=1.5, linestyle="--", label="foretold")
    if forecast.outcome == "forecast":
        axes.axvline(curve.needed(forecast.target), color=_TARGET, linewidth=1)
