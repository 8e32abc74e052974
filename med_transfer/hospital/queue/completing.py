"""Whether a study is complete. Each function works in its caller's transaction."""

from __future__ import annotations

import sqlite3

from med_transfer.hospital import record

_MISSING = (
    "(SELECT count(*) FROM expected WHERE expected.study = study.id AND NOT EXISTS "
    "(SELECT 1 FROM instance WHERE instance.sop_uid = expected.sop_uid AND file != ''))"
)
_ANNOUNCED = "EXISTS (SELECT 1 FROM expected WHERE expected.study = study.id)"
_N_ANNOUNCED = "(SELECT count(*) FROM expected WHERE expected.study = study.id)"
_N_HERE = "(SELECT count(*) FROM instance WHERE instance.study = study.id)"


def missing(database: sqlite3.Connection, study: str) -> int:
    """Number of a study's images that were announced or are in the PACS, but have not arrived."""
    (count,) = database.execute(f"SELECT {_MISSING} FROM study WHERE id = ?", (study,)).fetchone()
    return count


def expect(database: sqlite3.Connection, study: str, sop_uids: set[str], now: float) -> None:
    """Store the instances that the PACS has of a study, in place of what was expected before."""
    database.execute("DELETE FROM expected WHERE study = ?", (study,))
    database.executemany("INSERT INTO expected VALUES (?, ?, ?)", [(study, uid, now) for uid in sop_uids])
    database.execute("UPDATE study SET counted = ? WHERE id = ?", (now, study))
    database.execute(
        f"UPDATE study SET reason = CASE {_MISSING} WHEN 0 THEN '' ELSE 'missing_' || {_MISSING} END "
        "WHERE id = ? AND state = 'received'",
        (study,),
    )


def close(
    database: sqlite3.Connection, now: float, quiet_seconds: float, longest_seconds: float, counting: bool
) -> int:
    """Mark complete studies as such, see :meth:`Queue.complete`; return how many."""
    database.execute("UPDATE study SET changed = ? WHERE state = 'received' AND changed > ?", (now, now))
    database.execute("UPDATE study SET counted = ? WHERE state = 'received' AND counted > ?", (now, now))
    closed = database.execute(
        "UPDATE study SET state = 'complete' WHERE state = 'received' AND "
        f"({_ANNOUNCED} AND {_MISSING} = 0 AND {_N_HERE} = {_N_ANNOUNCED} OR changed <= ? OR "
        f"changed <= ? AND {_MISSING} = 0 AND (counted >= changed OR NOT ?)) RETURNING id, {_MISSING}",
        (now - longest_seconds, now - quiet_seconds, counting),
    ).fetchall()
    for study, missing in closed:
        if missing:
            record.append(database, "predicted though incomplete", study=study, missing=missing)
    return len(closed)
