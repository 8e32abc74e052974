"""``med-transfer node``: what a person sees of the queue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from med_transfer.hospital.queue import Instance, Queue

DAMAGED = Instance("1.2.3.1", "s1", "1.2.3", "1.2.3.9", "mark", "ct", "implicit", "hash", "incoming/s1/1.dcm")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.yaml"
    path.write_text("folder: state\nretries: {predictions: 1}\n")
    return path


@pytest.fixture
def stuck(config: Path) -> Queue:
    from med_transfer.hospital.config import read_node_config

    node = read_node_config(config)
    queue = Queue(node.queue_file, node.retries)
    queue.add(DAMAGED, 0)
    queue.complete(100, 0)
    queue.not_predicted(queue.to_predict(100), "ScanAborted", 100)
    queue.set_aside("damaged", "CT1", "aside/1.dcm", 100)
    return queue


def test_status_says_what_is_stuck(command, config, stuck):
    told = command("node", "status", "-c", config)
    assert told.code == 0
    assert "1 dead" in told.out
    assert "study s1: dead, ScanAborted" in told.out
    assert "set aside: 1 damaged" in told.out
    assert json.loads(command("node", "status", "-c", config, "--json").out)["studies"] == {"dead": 1}


def test_retry(command, config, stuck):
    assert command("node", "retry", "-c", config, "s1").out == "1 to be tried again\n"
    assert stuck.counts() == {"complete": 1}


def test_export_and_audit(command, config, stuck, tmp_path):
    out = tmp_path / "record.jsonl"
    assert command("node", "export", "-c", config, "-o", out).code == 0
    events = [json.loads(line)["event"] for line in out.read_text().splitlines()]
    assert events == ["not predicted", "set aside"]
    told = command("node", "audit", "-c", config)
    assert (told.code, told.out.split(";")[0]) == (0, "2 entries, unbroken")


def test_no_node_has_run_here(command, config):
    told = command("node", "status", "-c", config)
    assert told.code == 2
    assert "no node has run here" in told.err
