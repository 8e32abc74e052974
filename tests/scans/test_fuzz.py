"""Thousands of damaged scans: each is read or refused, in bounded time and memory, with no crash and no traceback.

A process of its own for each kind, so that a crash of a decoder is seen and memory can be bounded. More:
``python tests/scans/fuzzing.py j2k 100000 20000 /tmp/fuzz``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("kind", "count"), [("plain", 800), ("rle", 300), ("j2k", 300), ("nifti", 400), ("nrrd", 250), ("mha", 250)]
)
def test_every_damaged_scan_is_read_or_refused(tmp_path, kind, count):
    program = Path(__file__).with_name("fuzzing.py")
    environment = os.environ | {"MED_TRANSFER_CACHE": "off", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(program), kind, "0", str(count), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == {}
    if kind != "mha":  # MetaIO writes to the terminal what no one can keep from it
        assert done.stderr == ""
    assert sum(result["counts"].values()) == count
    assert min(result["counts"].get(word, 0) for word in ("read", "refused")) > count / 50  # both ends were reached
