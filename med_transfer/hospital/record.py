"""The node's record: an append-only log, tamper-evident because each entry's hash includes that of the one before it.

The table refuses changes, and the chain reveals those made outside of SQL. It cannot reveal that the last entries were
cut off: for this, store the last hash, which ``node audit`` prints, elsewhere from time to time.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

BEGINNING = "0" * 64
_PART = 1000  # entries in memory at once
SCHEMA = """
CREATE TABLE IF NOT EXISTS record (number INTEGER PRIMARY KEY, entry TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS record_no_update BEFORE UPDATE ON record
    BEGIN SELECT RAISE(ABORT, 'the record is append-only'); END;
CREATE TRIGGER IF NOT EXISTS record_no_delete BEFORE DELETE ON record
    BEGIN SELECT RAISE(ABORT, 'the record is append-only'); END;
CREATE INDEX IF NOT EXISTS record_study ON record (json_extract(entry, '$.study'));
"""


@dataclass(frozen=True)
class Audit:
    """Result of a check; ``broken`` is the number of the first entry that does not match the chain, 0 if all do."""

    entries: int
    last_hash: str
    broken: int = 0


def append(database: sqlite3.Connection, event: str, **facts: object) -> None:
    """Append an entry in the caller's transaction, so that it exists if and only if the change that it reports does."""
    last = database.execute("SELECT number, hash FROM record ORDER BY number DESC LIMIT 1").fetchone()
    number, previous = (last[0] + 1, last[1]) if last else (1, BEGINNING)
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = json.dumps({"number": number, "time": time, "event": event, **facts}, ensure_ascii=False, sort_keys=True)
    database.execute("INSERT INTO record VALUES (?, ?, ?)", (number, entry, _hash(previous, entry)))


def entries(database: sqlite3.Connection, study: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of one study in order, each with its ``hash``."""
    query = "SELECT entry, hash FROM record WHERE json_extract(entry, '$.study') = ? ORDER BY number"
    for entry, hashed in database.execute(query, (study,)):
        yield json.loads(entry) | {"hash": hashed}


def all_entries(reading: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> Iterator[dict[str, Any]]:
    """Yield all entries in order, each with its ``hash``; ``_PART`` of them are in memory, and no lock is held.

    Args:
        reading: lends the connection for one part.
    """
    query, last = "SELECT number, entry, hash FROM record WHERE number > ? ORDER BY number LIMIT ?", 0
    while True:
        with reading() as database:
            part = database.execute(query, (last, _PART)).fetchall()
        if not part:
            return
        for last, entry, hashed in part:  # noqa: B007  the next part follows the last entry
            yield json.loads(entry) | {"hash": hashed}


def audit(database: sqlite3.Connection) -> Audit:
    """Check the chain from the beginning."""
    count, previous, broken = 0, BEGINNING, 0
    for number, entry, hashed in database.execute("SELECT number, entry, hash FROM record ORDER BY number"):
        count += 1
        if not broken and (number != count or hashed != _hash(previous, entry)):
            broken = count
        previous = hashed
    return Audit(count, previous, broken)


def _hash(previous: str, entry: str) -> str:
    return hashlib.sha256(f"{previous}\n{entry}".encode()).hexdigest()
