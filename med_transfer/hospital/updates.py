"""Replacement of one bundle by another, recorded in the manner of a predetermined change control plan.

The record states what changed, the protocol behind the new bundle's decisions, the effect on the rates, and how to
revert. The reason for the change is left to the site to document. Source: FDA, Predetermined Change Control Plan for
AI-Enabled Device Software Functions, 2024.
"""

from __future__ import annotations

from med_transfer.bundle import BundleRecord, read_record
from med_transfer.errors import UsageError
from med_transfer.hospital.config import NodeConfig, place_of, require_route
from med_transfer.hospital.queue import Queue
from med_transfer.metrics.records.estimate import Estimate

_ROLLBACK = "med-transfer node rollback"


def rollback(node: NodeConfig, queue: Queue, route: str = "") -> str:
    """Return to the bundle that was in use before the present one, and return its mark.

    Raises:
        ConfigError: node.yaml has no such route.
        UsageError: no other bundle was in use.
    """
    require_route(node, route)
    known = queue.bundles(route)
    if len(known) < 2:
        raise UsageError("no other bundle was in use", where=place_of(node, route), action="Run med-transfer node use")
    switch_bundle(node, queue, route, known[1], "bundle rolled back")
    return known[1]


def switch_bundle(node: NodeConfig, queue: Queue, route: str, mark: str, event: str) -> None:
    """Put a bundle into use from the next study on, and record what changes.

    Args:
        node: node.yaml.
        queue: the node's queue.
        route: name of the route; empty if there are none.
        mark: mark of the bundle.
        event: name of the event in the record.
    """
    previous = next(iter(queue.bundles(route)), "")
    there = previous and node.bundle_copy(previous).exists()
    was = read_record(node.bundle_copy(previous)) if there else None
    change = update_record(was, read_record(node.bundle_copy(mark)), previous)
    queue.use_bundle(route, mark, event, **change)


def update_record(was: BundleRecord | None, now: BundleRecord, previous: str) -> dict[str, object]:
    """Describe the change for the record, without patient data.

    Args:
        was: record of the bundle that was in use; None: there was none, or its copy is gone.
        now: record of the new bundle.
        previous: mark of the bundle that was in use; empty: there was none.
    """
    before = _described(was) if was else {}
    changed = {name: [before.get(name), value] for name, value in _described(now).items() if before.get(name) != value}
    point = now.chosen_point
    protocol = {"rule": point.rule, "scans": point.n_scans, "patients": point.n_patients} if point else None
    return {
        "previous": previous,
        "changed": changed,
        "protocol": protocol,
        "impact": {what: _both(was, now, what) for what in ("sensitivity", "specificity")},
        "rollback": _ROLLBACK if previous else "",
    }


def _described(record: BundleRecord) -> dict[str, str]:
    return {
        "classes": ", ".join(record.classes),
        "operating_point": str(record.operating_point),
        "calibration": str(record.calibration),
        "backbone": record.backbone.name,
        "preprocessing": record.preprocessing.model_dump_json(exclude_defaults=True),
        "abstain_above_novelty": str(record.abstain_above_novelty),
        "cohort": record.trained_on.cohort_hash,
        "weights": record.weights_sha256,
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items())),
    }


def _both(was: BundleRecord | None, now: BundleRecord, what: str) -> dict[str, list[object]]:
    """Rate of each class on validation scans, with its interval, for the old and the new bundle."""
    rates = [getattr(record.chosen_point, what) if record and record.chosen_point else {} for record in (was, now)]
    return {name: [_rate(of.get(name)) for of in rates] for name in now.classes if any(name in of for of in rates)}


def _rate(estimate: Estimate | None) -> list[object] | None:
    return [estimate.value, *(estimate.interval or (None, None))] if estimate else None
