"""report.html: one file that a clinician, a reviewer and a printer can read, without network or scripts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from med_transfer.atomic import write_text
from med_transfer.evaluation import figures
from med_transfer.evaluation.estimate import Estimate, Interval
from med_transfer.evaluation.metrics import Metrics
from med_transfer.evaluation.notices import judged, notices, signed, signed_interval
from med_transfer.evaluation.run_summary import ALL_CLASSES, SPLITS, LearningCurve, Miss, RunSummary

_TEMPLATE = "report.html.jinja"


def write_report(
    path: Path | str,
    *,
    metrics: Metrics,
    run: RunSummary,
    curves: Sequence[LearningCurve] = (),
    misses: Sequence[Miss] = (),
    truth: NDArray[np.bool_] | None = None,
    probabilities: NDArray[np.floating] | None = None,
) -> None:
    """Write report.html whole or not at all; equal input gives an equal file.

    Args:
        path: where to; folders are made.
        metrics: as in metrics.json.
        run: what was asked, on whom, with what.
        curves: one for each member of the ensemble.
        misses: worst first.
        truth, probabilities: [scan, class] of the scans behind ``metrics``; without them no ROC curves are drawn.

    Raises:
        OutputError: when the file cannot be written.
    """
    page = _environment().get_template(_TEMPLATE)
    with_roc = truth is not None and probabilities is not None
    text = page.render(
        metrics=metrics,
        run=run,
        notices=notices(metrics),
        judged=judged(metrics),
        clustered=metrics.n_patients < metrics.n_scans,
        splits=SPLITS,
        all_classes=ALL_CLASSES,
        curves=[(curve, Markup(figures.learning_curve(curve, n))) for n, curve in enumerate(curves)],
        misses=[(miss, base64.b64encode(miss.picture).decode("ascii")) for miss in misses],
        forest=Markup(figures.sensitivity_forest(metrics)),
        roc=Markup(figures.roc_curves(np.asarray(truth), np.asarray(probabilities), metrics)) if with_roc else None,
        reliability=Markup(figures.reliability_diagram(metrics.calibration.bins)),
    )
    write_text(Path(path), text)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "decimal": decimal,
        "percent_interval": percent_interval,
        "decimal_interval": decimal_interval,
        "signed": signed,
        "signed_interval": signed_interval,
        "duration": duration,
    }
    return environment


def percent(estimate: Estimate) -> str:
    """For example ``83.3 %``; a dash when undefined."""
    return "–" if estimate.value is None else f"{100 * estimate.value:.1f} %"


def decimal(estimate: Estimate) -> str:
    """For example ``0.873``; a dash when undefined."""
    return "–" if estimate.value is None else f"{estimate.value:.3f}"


def percent_interval(interval: Interval | None) -> str:
    """For example ``66.4 to 92.7``, in percent."""
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def decimal_interval(interval: Interval | None) -> str:
    """For example ``0.812 to 0.934``."""
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def duration(seconds: float) -> str:
    """For example ``12 s``, ``4 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
