"""Damaged and hostile scans: each is read or refused, in bounded time and memory, with no crash and no traceback.

And none is silently read as something other than the original. In a separate process, so that a crash is detected and
memory can be bounded. Thousands of each: ``python benchmarks/fuzz_scans.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BYTES = {"plain": 180, "rle": 100, "j2k": 100, "nifti": 120, "nrrd": 100, "mha": 100}
HOSTILE = {
    "orientation": 40,
    "spacing": 40,
    "dummy": 40,
    "functional": 20,
    "detached": 40,
    "packed": 50,
    "lengths": 50,
    "special": 25,
}


@pytest.mark.parametrize("kinds", [BYTES, HOSTILE], ids=["bytes", "hostile"])
def test_every_spoilt_scan_is_read_as_it_was_or_refused(tmp_path, kinds):
    program = Path(__file__).with_name("fuzzing.py")
    environment = os.environ | {"MED_TRANSFER_CACHE": "off", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("MED_TRANSFER_READ_IN_PROCESS", None)  # as the commands read
    environment["PYTHONPATH"] = os.pathsep.join([str(program.parents[1]), *sys.path])  # what all tests share
    command = [sys.executable, program, tmp_path / "fuzz", "0", *(f"{kind}={count}" for kind, count in kinds.items())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {result["kind"]: result["wrong"] for result in results} == {kind: {} for kind in kinds}
    for result in results:
        counts = result["counts"]
        assert sum(counts.values()) == kinds[result["kind"]]
        assert "aborted" not in counts
        if kinds is BYTES:
            assert min(counts.get(word, 0) for word in ("read", "refused")) > sum(counts.values()) / 50  # both ends
