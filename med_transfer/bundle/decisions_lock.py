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

DECISIONS_FILE = "decisions.lock.json"
LOCK_HASH = "lock_hash"
# Keys of the bundle's record that decide nothing. Everything else is locked, also what a later version adds to it.
_NOT_DECIDED = (LOCK_HASH, "versions", "trained_on")
# A record with one of these was locked when it was written: without its hash it is not from before there were locks.
CAME_WITH_LOCKS = {LOCK_HASH, "development", "held_out", "reported", "files"}


def decisions(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is locked, from a bundle's record as JSON. The written text counts, not what a later version makes of it."""
    decided = {key: value for key, value in record.items() if key not in _NOT_DECIDED}
    return decided | {"cohort_hash": record["trained_on"]["cohort_hash"]}


def lock_hash(record: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of :func:`decisions`."""
    return _sha256(decisions(record))


def write_lock(run: Path, record: Mapping[str, Any]) -> None:
    """Write ``decisions.lock.json`` of a bundle's record. Raises OutputError."""
    content = decisions(record) | {LOCK_HASH: lock_hash(record)}
    write_text(run / DECISIONS_FILE, json.dumps(content, indent=2) + "\n")


def require_lock(record: Mapping[str, Any], where: Path, run: Path | None = None) -> None:
    """Refuse a bundle whose decisions are not those that were locked.

    Args:
        record: of the bundle, as JSON. One from before there were locks, which has no key that came with them or
            later, is let through.
        where: its file.
        run: the run folder that it lies in, with the run's own lock.

    Raises:
        BundleError: the record was changed, is not the one that the run locked, or the run's lock is damaged.
    """
    again = "Restore the file; or run finetune on the run's folder: it decides, locks and reads the test set again"
    present = decisions(record) | {LOCK_HASH: record.get(LOCK_HASH, "")}
    if run is not None:
        locked = _read_lock(run / DECISIONS_FILE)
        changed = sorted(key for key in {*locked, *present} if locked.get(key) != present.get(key))
        if changed:
            raise BundleError(
                f"not as it was locked before the test: {', '.join(changed)}",
                where=where,
                expected=f"what {DECISIONS_FILE} of the run holds",
                action=again,
            )
    if CAME_WITH_LOCKS.isdisjoint(record):
        return
    if not present[LOCK_HASH]:
        raise BundleError("the lock on its decisions was removed", where=where, expected=LOCK_HASH, action=again)
    if present[LOCK_HASH] != lock_hash(record):
        raise BundleError(
            "the operating point, or another decision, was changed after it was locked",
            where=where,
            expected=f"decisions with SHA-256 {present[LOCK_HASH][:12]}",
            action=again,
        )


def _read_lock(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        whole = content[LOCK_HASH] == _sha256({key: content[key] for key in content if key != LOCK_HASH})
    except (OSError, ValueError, KeyError, TypeError):
        whole, content = False, {}
    if not whole:
        raise BundleError("is not a lock on decisions, or was edited", where=path, action="Restore it from a copy")
    return content


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
