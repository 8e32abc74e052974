"""``med-transfer serve`` as its own process, which need not import everything again, and its node.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from forked import python
from peers import answers, until

from med_transfer.hospital.config import read_node_config
from med_transfer.hospital.node import Node


def written(folder: Path, port: int, pacs: int, /, **settings: object) -> Path:
    """node.yaml of a node that sends to Orthanc."""
    own = {
        "folder": "state",
        "port": port,
        "callers": [{"ae_title": "CT1", "address": "127.0.0.1"}],
        "destinations": [{"ae_title": "ORTHANC", "address": "127.0.0.1", "port": pacs, "storage_commitment": True}],
        "limits": {"disk_free_gib": 0},
        "study": {"quiet_seconds": 600},  # every study is announced: no test depends on the quiet time
        "results": {"heat_map": "off"},  # tested elsewhere, and it takes most of the time
        "retries": {"first_seconds": 0.5, "longest_seconds": 2, "commitment_seconds": 5},
    }
    path = folder / "node.yaml"
    path.write_text(json.dumps(own | settings))  # JSON is YAML
    return path


@contextmanager
def serving(bundle: Path, config: Path, port: int) -> Iterator[BaseProcess]:
    """``med-transfer serve``, a process of its own; it may be dead before the end."""
    log = config.parent / "serve.log"
    process = python("-m", "med_transfer", "serve", bundle, "-c", config, "--device", "cpu", out=log)
    try:
        until(lambda: not process.is_alive() or answers(port))
        assert process.is_alive(), log.read_text()
        yield process
    finally:
        process.terminate()
        process.join(240)


@contextmanager
def working(config: Path, bundle: Path | None) -> Iterator[Node]:
    """The node in this process."""
    node = Node(read_node_config(config), bundle, "cpu")
    node.start()
    try:
        yield node
    finally:
        node.stop()
