"""Retention of images. Each function works in its caller's transaction."""

from __future__ import annotations

import sqlite3

from med_transfer.hospital import record


def _delivery(condition: str) -> str:
    """The SQL condition that the study has a delivery, of any revision, which meets a condition."""
    return (
        f"EXISTS (SELECT 1 FROM delivery JOIN result USING (sop_uid) WHERE result.study = study.id AND ({condition}))"
    )


_CURRENT = "result.revision = study.revision"
_AWAITED = "commitment AND delivery.state = 'sent'"
_PENDING = (  # also a dead letter, which can be sent later, unless its destination was removed
    "delivery.state = 'waiting' OR delivery.state = 'dead' AND delivery.reason != 'no_destination'"
)
_ENDED = (  # canceled, nothing to send, or everything is sent, or has no destination, and no commitment is pending
    "files_kept AND changed < ? AND (state = 'committed' OR state = 'dead' AND reason = 'canceled' "
    f"OR NOT {_delivery(_AWAITED)} AND (state = 'sent' OR state = 'predicted' AND NOT {_delivery(_CURRENT)} "
    f"OR state = 'dead' AND {_delivery(_CURRENT)} AND NOT {_delivery(f'{_CURRENT} AND ({_PENDING})')}))"
)


def to_forget(database: sqlite3.Connection, before: float) -> list[str]:
    """Studies that were finished before the given time and still have files."""
    return [row[0] for row in database.execute(f"SELECT id FROM study WHERE {_ENDED}", (before,))]


def forget(database: sqlite3.Connection, study: str, before: float) -> list[str]:
    """Remove a study's files from the queue and return them; none if it was reopened meanwhile."""
    if not database.execute(f"SELECT 1 FROM study WHERE id = ? AND {_ENDED}", (study, before)).fetchone():
        return []
    rows = database.execute("SELECT file FROM instance WHERE study = ? AND file != ''", (study,)).fetchall()
    database.execute("UPDATE instance SET file = '' WHERE study = ?", (study,))
    database.execute("UPDATE study SET files_kept = 0 WHERE id = ?", (study,))
    database.execute("DELETE FROM expected WHERE study = ?", (study,))
    record.append(database, "files deleted", study=study)
    return [row[0] for row in rows]


def forget_aside(database: sqlite3.Connection, before: float) -> list[str]:
    """Remove files that were set aside before the given time from the queue, and return them."""
    rows = database.execute("SELECT file FROM aside WHERE file != '' AND time < ?", (before,)).fetchall()
    database.execute("UPDATE aside SET file = '' WHERE file != '' AND time < ?", (before,))
    if rows:
        record.append(database, "set-aside files deleted", count=len(rows))
    return [row[0] for row in rows]


def forget_announced(database: sqlite3.Connection, before: float) -> int:
    """Forget images announced before the given time, of studies without any image; return how many images."""
    gone = database.execute(
        "DELETE FROM expected WHERE announced < ? AND NOT EXISTS (SELECT 1 FROM study WHERE id = expected.study)",
        (before,),
    ).rowcount
    if gone:
        record.append(database, "announced images that never came forgotten", count=gone)
    return gone
