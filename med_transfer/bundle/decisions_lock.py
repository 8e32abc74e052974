"""Lock on the decisions of a run: they are hashed before the network reads a test scan.

::

    RUN/decisions.lock.json          all decisions, and ``lock_hash``
    RUN/bundle/med_transfer.json     the same decisions within the record, with the same ``lock_hash``
    RUN/metrics.json, report.html    only the hash

The hash guards against accidental and forgotten changes. It is not a signature: it does not detect someone who edits
every file consistently.
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
# Keys of the bundle's record that decide nothing. All others are locked, including those that later versions add.
_NOT_DECIDED = (LOCK_HASH, "versions", "trained_on")
# Keys as old as locks, or newer: a record with one of them was locked when written, so a missing hash was removed.
ABSENT_BEFORE_LOCKS = {LOCK_HASH, "development", "held_out", "reported", "files"}


def decisions(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the locked part of a bundle's record as parsed JSON, before a later version would fill in defaults."""
    decided = {key: value for key, value in record.items() if key not in _NOT_DECIDED}
    return decided | {"cohort_hash": record["trained_on"]["cohort_hash"]}


def lock_hash(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of :func:`decisions`."""
    return _sha256(decisions(record))


def write_lock(run: Path, record: Mapping[str, Any]) -> None:
    """Write ``decisions.lock.json`` for a bundle's record. Raises OutputError."""
    content = decisions(record) | {LOCK_HASH: lock_hash(record)}
    write_text(run / DECISIONS_FILE, json.dumps(content, indent=2) + "\n")


def require_lock(record: Mapping[str, Any], where: Path, run: Path | None = None) -> None:
    """Check that a bundle's decisions are those that were locked.

    Args:
        record: the bundle's record as parsed JSON. A record older than locks, recognised by its keys, is accepted.
        where: the record's file.
        run: the run folder that contains the bundle, with the run's own lock.

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
    if ABSENT_BEFORE_LOCKS.isdisjoint(record):
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
