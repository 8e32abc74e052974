"""Outcome of a study's prediction. Each function works in its caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from med_transfer.hospital import record
from med_transfer.hospital.queue.kinds import FHIR, ResultFile, Study
from med_transfer.hospital.settings.peers import FHIR_PREFIX


def close(database: sqlite3.Connection, study: Study, now: float) -> bool:
    """Mark a study as predicted; return False if it has changed since it was taken from the queue."""
    changed = database.execute(
        "UPDATE study SET state = 'predicted', attempts = 0, next_try = 0, reason = '', changed = ? "
        "WHERE id = ? AND revision = ? AND state = 'complete'",
        (now, study.id, study.revision),
    )
    return bool(changed.rowcount)


def put_results(
    database: sqlite3.Connection, study: Study, results: Sequence[ResultFile], destinations: Sequence[tuple[str, bool]]
) -> None:
    """Store results and their deliveries: FHIR resources go to FHIR servers, DICOM objects to other destinations."""
    for result in results:
        database.execute(
            "INSERT INTO result (sop_uid, study, revision, sop_class, file, route) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET revision = excluded.revision, file = excluded.file",
            (result.sop_uid, study.id, study.revision, result.sop_class, result.file, result.route),
        )
        database.executemany(
            "INSERT INTO delivery (sop_uid, destination, commitment, may_be_there) VALUES (?, ?, ?, 0) "
            "ON CONFLICT DO UPDATE SET state = 'waiting', attempts = 0, next_try = 0, reason = '' "
            "WHERE state = 'superseded'",
            [
                (result.sop_uid, name, int(commitment))
                for name, commitment in destinations
                if (result.sop_class == FHIR) == name.startswith(FHIR_PREFIX)
            ],
        )


def fail(database: sqlite3.Connection, study: Study, reason: str, now: float, next_try: float, dead: bool) -> None:
    """Schedule the next attempt, or make the study a dead letter; does nothing if it has changed meanwhile."""
    changed = database.execute(
        "UPDATE study SET attempts = attempts + 1, next_try = ?, reason = ?, state = ?, changed = ? "
        "WHERE id = ? AND revision = ? AND state = 'complete'",
        (next_try, reason, "dead" if dead else "complete", now, study.id, study.revision),
    )
    if changed.rowcount:
        record.append(database, "not predicted", study=study.id, reason=reason, dead=dead)


MAY_BE_DELIVERED = (  # as far as is known; older versions do not maintain may_be_there, but their states tell
    "EXISTS (SELECT 1 FROM delivery WHERE delivery.sop_uid = result.sop_uid "
    "AND (may_be_there OR delivery.state IN ('sent', 'committed')))"
)


def earlier_results(database: sqlite3.Connection, study: Study, route: str) -> list[ResultFile]:
    """A route's results of earlier revisions that a destination has or may have, the latest last."""
    rows = database.execute(
        "SELECT sop_uid, sop_class, file, route, revision FROM result "
        f"WHERE study = ? AND revision < ? AND route = ? AND {MAY_BE_DELIVERED} ORDER BY revision, rowid",
        (study.id, study.revision, route),
    )
    return [ResultFile(*row) for row in rows]
