"""The node's metrics for Prometheus, computed from its queue and its record.

Counters and histograms are rebuilt from the whole record, so that they survive a restart and include what other
commands did to the node. No label identifies a patient, study or image.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.database import read_only
from med_transfer.hospital.drift import drift_states
from med_transfer.hospital.queue.schema import bundles_in_use
from med_transfer.inference.drift.prometheus import exposition as drift_exposition

_PREDICT_SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
_DELIVERY_SECONDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
_REMEMBERED = 4096  # latest studies for which the time of receipt is kept until their results are sent
_UNFINISHED = ("received", "complete", "predicted")


class Figures(Collector):
    """Metrics of one node, read through a separate read-only connection.

    Args:
        node: node.yaml; its queue must exist.
        beats: returns the seconds since each of the node's threads last gave a sign of life.
    """

    def __init__(self, node: NodeConfig, beats: Callable[[], dict[str, float]]) -> None:
        self._node, self._beats, self._lock, self._last = node, beats, threading.Lock(), 0
        self._received: dict[str, float] = {}
        self._database = read_only(node.queue_file)
        self._registry = CollectorRegistry()
        name = {"namespace": "med_transfer", "registry": self._registry}
        self._series = Counter("predictions", "Series by what became of them.", ["status"], **name)
        self._failures = Counter("failures", "What was not done, by step and reason.", ["step", "code"], **name)
        self._sent = Counter("results_sent", "Results that a destination has taken.", ["destination"], **name)
        self._predict = Histogram("predict_seconds", "Of one series.", buckets=_PREDICT_SECONDS, **name)
        self._way = Histogram(
            "receive_to_sent_seconds",
            "From the last image of a study to each result that was taken.",
            buckets=_DELIVERY_SECONDS,
            **name,
        )
        self._registry.register(self)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        with self._lock:
            self._follow()
            marks = sorted({*self._bundles_in_use().values()})
            return generate_latest(self._registry) + drift_exposition(drift_states(self._node, marks)).encode()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._database.close()

    def describe(self) -> list[Metric]:
        """Describe nothing, so that registering does not query the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges, which show the present state."""
        yield _gauge(
            "studies", "Studies by state.", ["state"], self._rows("SELECT state, count(*) FROM study GROUP BY 1")
        )
        deliveries = self._rows("SELECT destination, state, count(*) FROM delivery GROUP BY 1, 2")
        yield _gauge("deliveries", "Results by destination and state.", ["destination", "state"], deliveries)
        failing = (
            "SELECT destination, reason, count(*) FROM delivery WHERE state = 'waiting' AND reason != '' GROUP BY 1, 2"
        )
        yield _gauge("deliveries_failing", "Results to be tried again.", ["destination", "code"], self._rows(failing))
        items = self._rows("SELECT state, count(*) FROM workitem GROUP BY 1")
        yield _gauge("workitems", "Work items of a worklist elsewhere, by state.", ["state"], items)
        marks = ", ".join("?" for _ in _UNFINISHED)
        oldest = f"SELECT state, ? - min(changed) FROM study WHERE state IN ({marks}) GROUP BY 1"
        ages = self._rows(oldest, time.time(), *_UNFINISHED)
        yield _gauge("oldest_study_seconds", "Since the oldest of a state has changed.", ["state"], ages)
        bundles = [(*bundle, 1) for bundle in self._bundles_in_use().items()]
        yield _gauge("bundle_info", "Which bundle is in use.", ["route", "bundle"], bundles)
        free = [(shutil.disk_usage(self._node.folder).free,)]
        yield _gauge("disk_free_bytes", "Of the disk of the node's folder.", [], free)
        yield _gauge("thread_beat_seconds", "Since a thread came back.", ["thread"], list(self._beats().items()))

    def _bundles_in_use(self) -> dict[str, str]:
        """By route of node.yaml: one that was removed answers nothing any more."""
        return bundles_in_use(self._database, self._node.rules_by_route)

    def _rows(self, query: str, *values: object) -> list[tuple]:
        return self._database.execute(query, values).fetchall()

    def _follow(self) -> None:
        """Count the record's entries since the last call."""
        query = "SELECT number, entry FROM record WHERE number > ? ORDER BY number"
        for number, text in self._database.execute(query, (self._last,)):
            self._count(json.loads(text))
            self._last = number

    def _count(self, entry: dict) -> None:
        match entry["event"]:
            case "predicted":
                self._count_series(entry)
            case "not predicted":
                self._failures.labels("predict", entry["reason"]).inc()
            case "dead letter":
                self._failures.labels("send", entry["reason"]).inc()
            case "set aside":
                self._failures.labels("receive", entry["reason"]).inc()
            case "sent":
                self._sent.labels(entry["destination"]).inc()
                if (received := self._received.get(entry["study"])) is not None:
                    self._way.observe(max(0.0, _seconds(entry) - received))

    def _count_series(self, entry: dict) -> None:
        self._series.labels(entry["status"]).inc()
        if entry["status"] == "ok":
            self._predict.observe(entry["seconds"])
        for code in entry.get("because", []) if entry["status"] != "ok" else []:
            self._failures.labels("predict", code).inc()
        if "since_received" in entry:
            self._received.pop(entry["study"], None)
            self._received[entry["study"]] = _seconds(entry) - entry["since_received"]
            if len(self._received) > _REMEMBERED:
                del self._received[next(iter(self._received))]


def _seconds(entry: dict) -> float:
    return datetime.fromisoformat(entry["time"]).timestamp()


def _gauge(name: str, help_text: str, labels: list[str], rows: list[tuple]) -> GaugeMetricFamily:
    """Build a gauge; the last column of each row is the value, the others its labels."""
    family = GaugeMetricFamily(f"med_transfer_{name}", help_text, labels=labels)
    for *values, value in rows:
        family.add_metric([str(text) for text in values], value)
    return family
