"""What is said where there is no cluster, and the tests of one."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.errors import MissingExtra
from med_transfer.runtimes.cluster import cluster

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


@pytest.mark.timeout(900)
def test_two_nodes(tmp_path):
    """In a process of its own: Ray leaves threads behind, beside which a fork of a later test can end the process."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    file = Path(__file__).with_name("two_nodes.py")
    done = subprocess.run(
        [*words, f"--basetemp={tmp_path / 'tests'}", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:6379"])
def test_an_address_that_does_not_answer_is_said_soon(address, command, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz")
    began = time.monotonic()
    outcome = command(
        "predict", tiny_bundle(tmp_path / "b"), scan, "-o", tmp_path / "o", "--engine", "ray", "--ray-address", address
    )
    assert outcome.code == 2
    assert f"--ray-address {address}: no Ray cluster there (" in outcome.err
    assert "Start one with: ray start --head; or use --engine local." in outcome.err
    assert time.monotonic() - began < 60


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"package ray is not installed. Run: pip install 'med-transfer\[ray\]'; or"):
        cluster().__enter__()
