"""What the bundles in use say of themselves: classes, thresholds, how sure that is, and the model card.

It reads their record as plain JSON, so that one that no longer fits its own lock is shown as it stands.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from med_transfer.hospital.bundles import folder_of
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Queue

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rate:
    """A rate and its 95 % interval."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ClassLine:
    """One class: its share of the scans that the bundle was developed on, threshold, and rates at it."""

    name: str
    share: float | None
    threshold: float | None
    sensitivity: Rate | None
    specificity: Rate | None


@dataclass(frozen=True)
class BundleReport:
    """One bundle; ``rule`` is the operating point's, ``n_chosen_on`` the validation scans that it was chosen on."""

    route: str
    mark: str
    classes: list[ClassLine]
    rule: str
    n_chosen_on: int | None
    calibration: str
    n_networks: int
    card: str


def reports(node: NodeConfig, queue: Queue) -> list[BundleReport]:
    """Of each bundle that is in use and can be read."""
    found = []
    for route, mark in sorted(queue.bundles_in_use().items()):
        folder = folder_of(node, mark)
        try:
            record = json.loads((folder / "med_transfer.json").read_bytes())
            card = (folder / "docs" / "README.md").read_text(encoding="utf-8")
            found.append(_report(route, mark, record, card))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("bundle %s cannot be read for the page (%s)", mark, type(error).__name__)
    return found


def _report(route: str, mark: str, record: dict[str, Any], card: str) -> BundleReport:
    point, chosen = record["operating_point"], record.get("chosen_point") or {}
    shares = (record.get("development") or {}).get("prevalence") or {}
    lines = [
        ClassLine(
            name=name,
            share=shares.get(name),
            threshold=point.get("thresholds", {}).get(name),
            sensitivity=_rate(chosen.get("sensitivity", {}).get(name)),
            specificity=_rate(chosen.get("specificity", {}).get(name)),
        )
        for name in record["classes"]
    ]
    return BundleReport(
        *(route, mark, lines, point["rule"], chosen.get("n_scans")),
        calibration=record.get("calibration", {}).get("method", "none"),
        n_networks=record["n_members"],
        card=card,
    )


def _rate(measured: dict[str, Any] | None) -> Rate | None:
    if not measured or measured.get("value") is None:
        return None
    low, high = measured.get("ci95_cluster") or measured.get("ci95") or (None, None)
    return Rate(measured["value"], low, high)
