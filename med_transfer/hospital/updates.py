"""One bundle takes the place of another, with what the record says of it in the manner of a change control plan.

What changed, by which protocol the new one was decided, with which effect on the rates, and how to go back. Source:
FDA, Predetermined Change Control Plan for AI-Enabled Device Software Functions, 2024. Why it was exchanged is the
site's to write down.
"""

from __future__ import annotations

from med_transfer.bundle import BundleRecord, read_record
from med_transfer.errors import UsageError
from med_transfer.hospital.config import NodeConfig, require_route
from med_transfer.hospital.queue import Queue
from med_transfer.metrics.records.estimate import Estimate

_ROLLBACK = "med-transfer node rollback"


def rollback(node: NodeConfig, queue: Queue, route: str = "") -> str:
    """Take the bundle that was in use before the present one; its mark. Raises ConfigError, UsageError."""
    require_route(node, route)
    known = queue.bundles(route)
    if len(known) < 2:
        raise UsageError("no other bundle was in use", where=f"route {route!r}", action="Run med-transfer node use")
    take(node, queue, route, known[1], "bundle rolled back")
    return known[1]


def take(node: NodeConfig, queue: Queue, route: str, mark: str, event: str) -> None:
    """A bundle by its mark, from the next study on; what changes by it comes into the record."""
    previous = next(iter(queue.bundles(route)), "")
    there = previous and node.bundle_copy(previous).exists()
    was = read_record(node.bundle_copy(previous)) if there else None
    told = update_record(was, read_record(node.bundle_copy(mark)), previous)
    queue.use_bundle(route, mark, event, **told)


def update_record(was: BundleRecord | None, now: BundleRecord, previous: str) -> dict[str, object]:
    """Facts for the record; no patient is in them.

    Args:
        was: of the bundle that was in use; None: the first one, or one whose copy is gone.
        now: of the new one.
        previous: mark of the one that was in use; empty: none was.
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
    """By class: the rate on the validation scans of the one before, and of the new one, each with its interval."""
    rates = [getattr(record.chosen_point, what) if record and record.chosen_point else {} for record in (was, now)]
    return {name: [_rate(of.get(name)) for of in rates] for name in now.classes if any(name in of for of in rates)}


def _rate(estimate: Estimate | None) -> list[object] | None:
    return [estimate.value, *(estimate.interval or (None, None))] if estimate else None
