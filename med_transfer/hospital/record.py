"""The node's record: an append-only log, tamper-evident because each entry's hash includes that of the one before it.

The table refuses changes, and the chain reveals those made outside of SQL. It cannot reveal that the last entries were
cut off: for this, store the last hash, which ``node audit`` prints, elsewhere from time to time.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

BEGINNING = "0" * 64
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


def entries(database: sqlite3.Connection, study: str = "") -> Iterator[dict[str, object]]:
    """Yield the entries of one study, or of all, in order, each with its ``hash``."""
    where = "WHERE json_extract(entry, '$.study') = ?" if study else "WHERE ? = ''"
    for entry, hashed in database.execute(f"SELECT entry, hash FROM record {where} ORDER BY number", (study,)):
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
