"""The files of a label budget, ``budget.json`` and ``budget.png``, and one sentence per forecast."""

from __future__ import annotations

import json
import math

from med_transfer.atomic import write_text
from med_transfer.errors.numbers import rounded, whole_percent
from med_transfer.labelling.curve_samples import ALL_CLASSES, CurveSamples
from med_transfer.labelling.drawing import draw_curves
from med_transfer.labelling.label_forecast import Forecast, rounded_down, rounded_up
from med_transfer.labelling.record import WAY_MEANS, Budget

SCHEMA = 1
MODEL = "asymptote - (asymptote - start) * (patients / smallest) ** -rate"
_ALIKE = "Holds for patients like the present ones: classes in the same proportions, the same scanners."


def write_budget(budget: Budget) -> None:
    """Write both files into the budget's folder. Raises OutputError."""
    write_text(budget.folder / "budget.json", json.dumps(as_record(budget), indent=2) + "\n")
    draw_curves(budget, budget.folder / "budget.png")


def as_record(budget: Budget) -> dict:
    """The content of ``budget.json``."""
    asked = budget.settings
    return {
        "schema": SCHEMA,
        "measure": asked.measure,
        "target": asked.target,
        "way": asked.way,
        "way_means": WAY_MEANS[asked.way],
        "limits": limits(budget),
        "model": MODEL,
        "multiple": asked.multiple,
        "backbone": budget.backbone,
        "n_patients": budget.n_patients,
        "n_scans": budget.n_scans,
        "n_folds": budget.n_folds,
        "repeats": budget.repeats,
        "n_draws": asked.n_draws,
        "seed": asked.seed,
        "forecasts": [_forecast_record(forecast, asked.measure) for forecast in budget.forecasts],
        "failed": budget.failed,
    }


def limits(budget: Budget) -> str:
    """What the forecasts hold for, and what their intervals cover: only repeats show the influence of the training."""
    if budget.repeats > 1:
        covered = (
            "covers which of the present patients were used for training and which for evaluation, not the choice of "
            "the curve"
        )
    else:
        covered = (
            "covers which of the present patients were used for evaluation, not which for training (a single repeat "
            "does not show that), nor the choice of the curve"
        )
    return f"{_ALIKE} The interval {covered}."


def _forecast_record(forecast: Forecast, measure: str) -> dict:
    curve, now = forecast.curve, forecast.now
    return {
        "name": forecast.name,
        "outcome": forecast.outcome,
        "labelled": forecast.samples.labelled,
        "more": forecast.more,
        "more_ci95": list(forecast.interval) if forecast.interval else None,
        "share_reaching": forecast.share_reaching,
        "now": None if now is None else {"value": now[0], "ci95": list(now[1:])},
        "reason": forecast.reason,
        "sentence": sentence(forecast, measure),
        "curve": None if curve is None else vars(curve),
        "points": _points(forecast.samples),
    }


def _points(samples: CurveSamples) -> list[dict]:
    return [
        {
            "patients": float(patients),
            "value": float(value) if math.isfinite(value) else None,
            "ci95": interval,
        }
        for patients, value, interval in zip(samples.patients, samples.values, samples.intervals, strict=True)
    ]


def sentence(forecast: Forecast, measure: str) -> str:
    """The outcome in words, with its interval; never with a number beyond the multiple."""
    what, target = measure.replace("macro_auc", "macro AUC"), f"{forecast.target:g}"
    kind = "labelled patients" if forecast.name == ALL_CLASSES else "labelled patients of this class"
    head = f"{forecast.name}: "
    if forecast.now is None:
        return f"{head}cannot say how many patients a {what} of {target} takes: {forecast.reason}."
    low = forecast.now[1]
    figures = [rounded(figure, 2, of=(0.0, 1.0, forecast.target)) for figure in forecast.now]
    present = (
        f"{what} is {figures[0]} ({figures[1]} to {figures[2]}) with the present {forecast.samples.labelled} {kind}"
    )
    if forecast.outcome == "reached":
        return f"{head}{present}; the target of {target} is reached{_uncertainty_clause(forecast, low)}."
    if forecast.outcome == "forecast":
        return (
            f"{head}to reach {what} {target} you need about {rounded_up(forecast.more or 0)} more {kind} "
            f"(95 % interval {_limits(forecast)}); now {present}{_uncertainty_clause(forecast, 0.0)}."
        )
    return (
        f"{head}{what} {target} is not foreseen within {forecast.multiple:g} times the patients at hand: "
        f"{forecast.reason}; now {present}{_uncertainty_clause(forecast, 0.0)}."
    )


def _limits(forecast: Forecast) -> str:
    """The interval in words, rounded outwards so that it still contains the rounded number."""
    low, high = forecast.interval or (None, None)
    beyond = f"more than {forecast.multiple:g} times those at hand"
    return f"{beyond if low is None else rounded_down(low)} to {beyond if high is None else rounded_up(high)}"


def _uncertainty_clause(forecast: Forecast, low: float) -> str:
    share = forecast.share_reaching or 0.0
    if forecast.outcome == "reached":
        return "" if low >= forecast.target else ", but the interval reaches below it"
    return f"; {whole_percent(share)} of the resampled curves get there within {forecast.multiple:g} times the patients"
