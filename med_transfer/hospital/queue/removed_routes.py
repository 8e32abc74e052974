"""Answers of routes that were removed from node.yaml. Each function works in its caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from med_transfer.hospital import record
from med_transfer.hospital.queue import answering, receiving
from med_transfer.hospital.queue.kinds import RemovedRouteAnswer
from med_transfer.hospital.queue.predicting import MAY_BE_DELIVERED


def removed_route_answers(
    database: sqlite3.Connection, bundles: Mapping[str, str], study: str = ""
) -> list[RemovedRouteAnswer]:
    """Answers of removed routes that a destination has or may have, and that were not withdrawn.

    Args:
        database: the queue.
        bundles: mark of the bundle in use for each route of node.yaml; an empty mark if there is none.
        study: the only study to consider; empty: all studies.
    """
    rows = database.execute(
        f"SELECT study, route, max(revision) FROM result WHERE {'study = ? AND' if study else ''} "
        f"route NOT IN ({', '.join('?' for _ in bundles)}) AND {MAY_BE_DELIVERED} "
        "GROUP BY study, route ORDER BY study, route",
        [study, *bundles] if study else list(bundles),
    ).fetchall()
    found = []
    for of_study, route, revision in rows:
        answers = [one for one in answering.answers(database, of_study, revision) if one.route == route]
        if any(one.facts.get("status") == "ok" for one in answers):
            mark, identity = answers[0].bundle, str(answers[0].facts.get("bundle", ""))
            same = [
                name for name, other in bundles.items() if mark == other and _has_no_results(database, of_study, name)
            ]
            found.append(RemovedRouteAnswer(of_study, route, mark, identity, next(iter(same), None)))
    return found


def _has_no_results(database: sqlite3.Connection, study: str, route: str) -> bool:
    results = database.execute("SELECT 1 FROM result WHERE study = ? AND route = ?", (study, route))
    return results.fetchone() is None


def follow_renamed_routes(
    database: sqlite3.Connection, bundles: Mapping[str, str], study: str = ""
) -> list[RemovedRouteAnswer]:
    """Move answers of renamed routes to the new name; return the remaining answers of removed routes."""
    left = []
    for one in removed_route_answers(database, bundles, study):
        if one.heir is None or not _has_no_results(database, one.study, one.heir):
            left.append(one)
            continue
        for table in ("result", "answer"):
            new, of_route = one.heir, (one.study, one.route)
            database.execute(f"UPDATE {table} SET route = ? WHERE study = ? AND route = ?", (new, *of_route))
        record.append(database, "route renamed", study=one.study, was=one.route, route=one.heir)
    return left


def predict_again(database: sqlite3.Connection, studies: Iterable[str], now: float) -> tuple[int, int]:
    """Have studies predicted again; return how many, and how many cannot be, since their images were deleted."""
    asked = without = 0
    for study in studies:
        if answering.can_predict_again(database, study):
            answering.predict_again(database, study, now)
            receiving.supersede(database, study)
            record.append(database, "to be taken back", study=study)
            asked += 1
        elif database.execute("SELECT 1 FROM instance WHERE study = ? AND file = ''", (study,)).fetchone():
            without += 1
    return asked, without
