"""The node's load, what is stuck, and drift, as counts without names.

Read-only: uses a separate connection to the node's queue, and the drift monitors' files.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.database import read_only
from med_transfer.hospital.queue import Queue, State

STATES: tuple[State, ...] = get_args(State)
HOURS, _LATEST = 24, 20_000  # hours shown; latest entries of the record that are examined


@dataclass(frozen=True)
class Load:
    """The node's load at one moment.

    Attributes:
        studies: number of studies in each of ``STATES``.
        oldest_minutes: longest time that a complete study has waited for its prediction; None if none waits.
        deliveries: (destination, state, number) of deliveries.
        aside: (reason, number) of refused instances.
        predicted: series predicted in each of the last ``HOURS`` hours, the present one last.
    """

    studies: dict[str, int]
    oldest_minutes: float | None
    deliveries: list[tuple[str, str, int]]
    aside: list[tuple[str, int]]
    predicted: list[int]


def load_of(node: NodeConfig) -> Load:
    """The node's present load."""
    with closing(read_only(node.queue_file)) as queue:
        counts = dict(queue.execute("SELECT state, count(*) FROM study GROUP BY state").fetchall())
        (since,) = queue.execute("SELECT min(changed) FROM study WHERE state = 'complete'").fetchone()
        by_destination = "SELECT destination, state, count(*) FROM delivery GROUP BY destination, state ORDER BY 1, 2"
        return Load(
            studies={state: counts.get(state, 0) for state in STATES},
            oldest_minutes=None if since is None else max(0.0, time.time() - since) / 60,
            deliveries=queue.execute(by_destination).fetchall(),
            aside=queue.execute("SELECT reason, count(*) FROM aside GROUP BY reason ORDER BY reason").fetchall(),
            predicted=_by_hour(queue, datetime.now(UTC)),
        )


def _by_hour(queue: sqlite3.Connection, now: datetime) -> list[int]:
    hours = [(now - timedelta(hours=HOURS - 1 - hour)).isoformat()[:13] for hour in range(HOURS)]
    rows = queue.execute(
        "SELECT substr(json_extract(entry, '$.time'), 1, 13), count(*) FROM "
        "(SELECT entry FROM record ORDER BY number DESC LIMIT ?) WHERE json_extract(entry, '$.event') = 'predicted' "
        "GROUP BY 1",
        (_LATEST,),
    )
    counts = dict(rows.fetchall())
    return [counts.get(hour, 0) for hour in hours]


@dataclass(frozen=True)
class MonitoredQuantity:
    """One monitored quantity; its last alarm was ``how`` (``rose`` or ``fell``, empty: none) at value number ``at``."""

    name: str
    mean: float
    recent: float
    n_alarms: int
    how: str
    at: int


@dataclass(frozen=True)
class Drift:
    """State of a bundle's drift monitor: numbers of scans by status, and each monitored quantity."""

    bundle: str
    statuses: dict[str, int]
    quantities: list[MonitoredQuantity]


def drifts_of(node: NodeConfig, queue: Queue) -> list[Drift]:
    """Drift of each bundle that is in use and has seen a scan."""
    marks = queue.bundles_in_use(node.rules_by_route).values()
    found = (_drift(mark, node.drift_folder(mark)) for mark in sorted({*marks}))
    return [drift for drift in found if drift is not None]


def _drift(mark: str, folder: Path) -> Drift | None:
    """Parse the file directly, since importing DriftState would load the libraries for networks."""
    try:
        state: dict[str, Any] = json.loads((folder / "drift.json").read_bytes())
        quantities = [_quantity(name, seen) for name, seen in state["quantities"].items() if seen["n"]]
        return Drift(mark, {str(key): int(value) for key, value in state["statuses"].items()}, quantities)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _quantity(name: str, seen: dict[str, Any]) -> MonitoredQuantity:
    at, how = seen["alarms"][-1] if seen["alarms"] else (0, "")
    return MonitoredQuantity(name, float(seen["mean"]), float(seen["recent"]), int(seen["n_alarms"]), str(how), int(at))
