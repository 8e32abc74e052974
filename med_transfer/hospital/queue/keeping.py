"""How long images are kept. Each function works in its caller's transaction."""

from __future__ import annotations

import sqlite3

from med_transfer.hospital import record

_OF_STUDY = "SELECT 1 FROM delivery JOIN result USING (sop_uid) WHERE result.study = study.id"


def to_forget(database: sqlite3.Connection, before: float) -> list[str]:
    """Studies that have ended, and whose files have been kept long enough."""
    rows = database.execute(
        "SELECT id FROM study WHERE files_kept AND changed < ? AND (state = 'committed' "
        f"OR state = 'sent' AND NOT EXISTS ({_OF_STUDY} AND commitment AND delivery.state = 'sent') "
        f"OR state = 'predicted' AND NOT EXISTS ({_OF_STUDY}))",
        (before,),
    )
    return [row[0] for row in rows]


def forget(database: sqlite3.Connection, study: str) -> list[str]:
    """The study's files, which the queue knows no more."""
    rows = database.execute("SELECT file FROM instance WHERE study = ? AND file != ''", (study,)).fetchall()
    database.execute("UPDATE instance SET file = '' WHERE study = ?", (study,))
    database.execute("UPDATE study SET files_kept = 0 WHERE id = ?", (study,))
    database.execute("DELETE FROM expected WHERE study = ?", (study,))
    record.append(database, "files deleted", study=study)
    return [row[0] for row in rows]
