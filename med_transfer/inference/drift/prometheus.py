"""What a monitor knows in Prometheus' text exposition format, version 0.0.4, as node_exporter's textfile collector and
others read it."""

from __future__ import annotations

from collections.abc import Mapping

from med_transfer.inference.drift.state import DriftState

_PREFIX = "med_transfer"


def exposition(state: DriftState) -> str:
    """The whole file."""
    quantities = state.quantities
    return "".join(
        [
            _family("scans_total", "counter", "Scans by what became of them.", "status", state.statuses),
            _family("predicted_total", "counter", "Predictions of each class.", "class", state.predicted),
            _family("abstained_total", "counter", "Predictions that abstain.", "", {"": state.n_abstained}),
            _family(
                *("drift_alarms_total", "counter", "Times that a quantity was found to have moved.", "quantity"),
                {name: one.n_alarms for name, one in quantities.items()},
            ),
            _family(
                *("drift_evidence_ratio", "gauge", "Evidence that a quantity has moved; an alarm at 1.", "quantity"),
                {name: one.evidence for name, one in quantities.items()},
            ),
            _family(
                *("drift_mean", "gauge", "Mean of a quantity over all scans.", "quantity"),
                {name: one.mean for name, one in quantities.items() if one.n},
            ),
            _family(
                *("drift_recent_mean", "gauge", "Mean of a quantity over about the last hundred scans.", "quantity"),
                {name: one.recent for name, one in quantities.items() if one.n},
            ),
        ]
    )


def _family(name: str, kind: str, said: str, label: str, values: Mapping[str, float]) -> str:
    head = f"# HELP {_PREFIX}_{name} {said}\n# TYPE {_PREFIX}_{name} {kind}\n"
    labels = [f'{{{label}="{_escaped(value)}"}}' if label else "" for value in values]
    samples = zip(labels, values.values(), strict=True)
    return head + "".join(f"{_PREFIX}_{name}{own} {float(value)!r}\n" for own, value in samples)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
