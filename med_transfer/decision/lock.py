"""The decisions of a run, hashed before the network reads a test scan.

::

    RUN/decisions.lock.json          what was decided, in full, and ``lock_hash``
    RUN/bundle/med_transfer.json     the same among the rest of the record, with the same ``lock_hash``
    RUN/metrics.json, report.html    the hash alone

The hash guards against a change by mistake and against one that is forgotten. It is no signature: who edits every file
alike is not found out by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from med_transfer.atomic import write_text
from med_transfer.errors import BundleError
from med_transfer.evaluation.metrics import ClassMetrics, Metrics

DECISIONS_FILE = "decisions.lock.json"
# Keys of the bundle's record. One that a record does not have was not decided by the version that wrote it.
_DECIDED = (
    "classes", "multilabel", "preprocessing", "operating_point", "chosen_point", "calibration", "abstain_above_novelty",
    "fusion", "prevalence", "reported", "weights_sha256",
)  # fmt: skip


def reported_metrics() -> tuple[str, ...]:
    """Names of the measures that a run reports: all that this version measures, none picked afterwards."""
    of_class = [name for name, field in ClassMetrics.model_fields.items() if "Estimate" in str(field.annotation)]
    overall = [name for name, field in Metrics.model_fields.items() if "Estimate" in str(field.annotation)]
    return (*(f"classes.{name}" for name in of_class), *overall, "confusion_matrix", "calibration", "baselines",
            "transfer_gain")  # fmt: skip


def decisions(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is locked, from a bundle's record as JSON. The written text counts, not what a later version makes of it."""
    cohort = {"cohort_hash": record["trained_on"]["cohort_hash"]}
    return {key: record[key] for key in _DECIDED if key in record} | cohort


def lock_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of :func:`decisions`."""
    text = json.dumps(decisions(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_lock(run: Path, record: Mapping[str, Any]) -> None:
    """Write ``decisions.lock.json``. Raises OutputError."""
    content = decisions(record) | {"lock_hash": lock_hash(record)}
    write_text(run / DECISIONS_FILE, json.dumps(content, indent=2) + "\n")


def require_lock(run: Path, bundle_hash: str) -> None:
    """Refuse a bundle in a run folder whose decisions were others.

    Raises:
        BundleError: the lock is damaged, or not this bundle's.
    """
    path = run / DECISIONS_FILE
    try:
        written = json.loads(path.read_bytes())["lock_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError("is not a lock on decisions", where=path, action="Restore it from a copy") from None
    if written != bundle_hash:
        raise BundleError(
            f"the run locked the decisions {written[:12]}..., its bundle holds {bundle_hash[:12] or 'none'}...",
            where=path, expected="one and the same",
            action="Run finetune on this folder again: it decides anew, locks that, and records a further opening",
        )  # fmt: skip
