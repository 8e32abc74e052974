"""``med-transfer serve`` as a process of its own, and its node.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers import answers, until


def written(folder: Path, port: int, pacs: int, /, **settings: object) -> Path:
    """node.yaml of a node that sends to Orthanc."""
    own = {
        "folder": "state",
        "port": port,
        "callers": [{"ae_title": "CT1", "address": "127.0.0.1"}],
        "destinations": [{"ae_title": "ORTHANC", "address": "127.0.0.1", "port": pacs, "storage_commitment": True}],
        "limits": {"disk_free_gib": 0},
        "study": {"quiet_seconds": 600},  # every study is announced: no test waits, or is too slow, for it
        "results": {"heat_map": "off"},  # its own tests are elsewhere, and it takes most of the time
        "retries": {"first_seconds": 0.5, "longest_seconds": 2, "commitment_seconds": 5},
    }
    path = folder / "node.yaml"
    path.write_text(json.dumps(own | settings))  # JSON is YAML
    return path


@contextmanager
def serving(bundle: Path, config: Path, port: int) -> Iterator[subprocess.Popen]:
    """``med-transfer serve``, a process of its own; it may be dead before the end."""
    command = [sys.executable, "-m", "med_transfer", "serve", str(bundle), "-c", str(config), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (config.parent / "serve.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        until(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, (config.parent / "serve.log").read_text()
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(240)
