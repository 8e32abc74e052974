"""What the page's process loads, including for a bundle's record, and what it does without one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from peers import free_port

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.review.bundle_records import bundle_record
from med_transfer.hospital.review.serving import _listening
from med_transfer.hospital.settings.page import ReviewPage

RECORD = Path(__file__).parents[2] / "old_run" / "run" / "bundle" / "med_transfer.json"


def test_the_page_starts_without_the_network_and_its_libraries():
    code = "import sys, med_transfer.hospital.review.serving; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "med_transfer.hospital.review.app" in loaded.stdout.split()
    assert "med_transfer.bundle.record" in loaded.stdout.split()
    assert not {"torch", "monai", "med_transfer.bundle.files"} & set(loaded.stdout.split())


def test_a_command_that_needs_no_network_loads_no_library_of_it(tmp_path):
    """One process runs them in turn: what the first ones load shows in the last, too."""
    node, wrong, bundle = tmp_path / "node.yaml", tmp_path / "wrong.yaml", RECORD.parent
    node.write_text(f"folder: {tmp_path / 'state'}\n")
    wrong.write_text("destination: []\n")
    state = NodeConfig(folder=tmp_path / "state")
    queue = Queue(state.queue_file)
    for mark in ("first", "second"):
        shutil.copytree(bundle, state.bundle_copy(mark))
        queue.use_bundle("", mark, "bundle in use")
    queue.close()
    commands = [
        ["serve", str(bundle), "-c", str(wrong)],
        ["node", "status", "-c", str(node)],
        ["node", "rollback", "-c", str(node)],
        ["node", "labels", "-c", str(node), "-o", str(tmp_path / "labels.csv")],
        ["bundle", "verify", str(bundle)],
        ["merge", str(tmp_path), "-o", str(tmp_path / "merged")],
        ["backbones", "list"],
        ["backbones", "show", "resnet19"],
        ["backbones", "import", "vista3d", "--download"],
        ["backbones", "verify", "vista3d", "--scans", str(tmp_path)],
    ]
    code = (
        "import sys\nfrom med_transfer.cli.app import main\n"
        f"of_it = {{'torch', 'monai', 'sklearn', 'matplotlib'}}\nfor words in {commands}:\n"
        "    sys.argv = ['med-transfer', *words]\n"
        "    try: main()\n"
        "    except SystemExit as end: print(end.code, *of_it & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    ends = [line for line in done.stdout.splitlines() if line[:2].strip().isdigit()]
    assert ends == ["2", "0", "0", "3", "2", "2", "0", "2", "2", "2"], done
    assert "first is in use" in done.stdout
    assert [error.partition(": ")[2].partition(";")[0] for error in done.stderr.splitlines()] == [
        f"{wrong}: destination: no such key",
        f"{tmp_path / 'state'}: no labels",
        f"{bundle / 'models' / 'model.safetensors'}: weights are missing. Copy the whole bundle folder again.",
        f"{tmp_path}: no batch.json that can be read",
        "unknown backbone 'resnet19'",
        "backbone vista3d: its licence is restricted and was not accepted",
        "backbone vista3d: its licence is restricted and was not accepted",
    ]


def test_what_is_no_record_is_none(tmp_path, caplog):
    node = NodeConfig(folder=tmp_path)
    for mark, written in (("none", ""), ("whole", RECORD.read_text()), ("torn", RECORD.read_text()[:99])):
        node.bundle_copy(mark).mkdir(parents=True)
        (node.bundle_copy(mark) / "med_transfer.json").write_text(written)
    whole = bundle_record(node, "whole")
    assert whole is not None
    assert whole.classes == tuple(json.loads(RECORD.read_bytes())["classes"])
    assert bundle_record(node, "gone") is bundle_record(node, "torn") is bundle_record(node, "") is None
    assert "bundle torn cannot be read" in caplog.text


def test_no_packet_of_a_page_waits_for_the_receipt_of_the_one_before():
    with _listening(ReviewPage(port=free_port())) as door, socket.create_connection(door.getsockname()):
        connection, _ = door.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
