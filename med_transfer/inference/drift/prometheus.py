"""Drift figures in Prometheus' text exposition format, version 0.0.4, as read by node_exporter's textfile collector."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from med_transfer.inference.drift.state import DriftState

_PREFIX = "med_transfer"
Values = Callable[[DriftState], Mapping[str, float]]
_FAMILIES: tuple[tuple[str, str, str, str, Values], ...] = (  # name, kind, help text, label, values by label
    ("scans_total", "counter", "Scans by what became of them.", "status", lambda state: state.statuses),
    ("predicted_total", "counter", "Predictions of each class.", "class", lambda state: state.predicted),
    ("abstained_total", "counter", "Predictions that abstain.", "", lambda state: {"": state.n_abstained}),
    (
        *("drift_alarms_total", "counter", "Times that a quantity was found to have moved.", "quantity"),
        lambda state: {name: one.n_alarms for name, one in state.quantities.items()},
    ),
    (
        *("drift_evidence_ratio", "gauge", "Evidence that a quantity has moved; an alarm at 1.", "quantity"),
        lambda state: {name: one.evidence for name, one in state.quantities.items()},
    ),
    (
        *("drift_mean", "gauge", "Mean of a quantity over all scans.", "quantity"),
        lambda state: {name: one.mean for name, one in state.quantities.items() if one.n},
    ),
    (
        *("drift_recent_mean", "gauge", "Mean of a quantity over about the last hundred scans.", "quantity"),
        lambda state: {name: one.recent for name, one in state.quantities.items() if one.n},
    ),
)


def exposition(states: Mapping[str, DriftState]) -> str:
    """Format the figures of each bundle; the keys become the label ``bundle``, which an empty key leaves out."""
    text = ""
    for name, kind, help_text, label, values in _FAMILIES:
        text += f"# HELP {_PREFIX}_{name} {help_text}\n# TYPE {_PREFIX}_{name} {kind}\n"
        for bundle, state in states.items():
            for own, value in values(state).items():
                labels = _labels({"bundle": bundle, label: own})
                text += f"{_PREFIX}_{name}{labels} {float(value)!r}\n"
    return text


def _labels(values: Mapping[str, str]) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items() if value)
    return f"{{{labels}}}" if labels else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
