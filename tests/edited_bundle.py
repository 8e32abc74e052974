"""A bundle whose record was edited by someone who knows of the lock: all hashes in it were recomputed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from med_transfer.bundle import RECORD_FILE
from med_transfer.bundle.decisions_lock import ABSENT_BEFORE_LOCKS, lock_hash


def edit_record(bundle: Path, **changes: Any) -> Path:
    """The same folder, its record with these values."""
    path = bundle / RECORD_FILE
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(record | {"lock_hash": lock_hash(record)}))
    return bundle


def before_locks(bundle: Path) -> dict[str, Any]:
    """The record as it was written before there were locks, and what came with them."""
    record = json.loads((bundle / RECORD_FILE).read_text())
    return {key: value for key, value in record.items() if key not in ABSENT_BEFORE_LOCKS}
