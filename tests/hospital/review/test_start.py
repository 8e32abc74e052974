"""What the page's process loads, and that what it reads of a bundle is what the bundle's own record says."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from peers import free_port

from med_transfer.bundle.record import BundleRecord
from med_transfer.hospital.config import NodeConfig, ReviewPage
from med_transfer.hospital.review.bundle_facts import BundleFacts, bundle_facts
from med_transfer.hospital.review.serving import _listening

RECORD = Path(__file__).parents[2] / "old_run" / "run" / "bundle" / "med_transfer.json"


def test_the_page_starts_without_the_network_and_its_libraries():
    code = "import sys, med_transfer.hospital.review.serving; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "med_transfer.hospital.review.app" in loaded.stdout.split()
    assert not {"torch", "monai", "med_transfer.bundle", "med_transfer.backbones"} & set(loaded.stdout.split())


def test_the_page_reads_what_the_record_says():
    record = BundleRecord.model_validate_json(RECORD.read_bytes())
    facts = BundleFacts.model_validate_json(RECORD.read_bytes())
    assert record.development is not None
    assert facts.model_dump() == {
        "classes": record.classes,
        "multilabel": record.multilabel,
        "operating_point": record.operating_point.model_dump(),
        "chosen_point": record.chosen_point and record.chosen_point.model_dump(),
        "n_networks": record.n_fold_models,
        "calibration": record.calibration.method,
        "max_gap_mm": record.preprocessing.max_gap_mm,
        "shares": record.development.prevalence,
    }
    assert facts.labels == record.labels


def test_a_bundle_without_profile_has_no_shares(tmp_path, caplog):
    node = NodeConfig(folder=tmp_path)
    text = RECORD.read_text()
    for mark, written in (
        ("none", ""),
        ("old", text.replace('"development": {', '"development": null, "x": {')),
        ("torn", text[:99]),
    ):
        node.bundle_copy(mark).mkdir(parents=True)
        (node.bundle_copy(mark) / "med_transfer.json").write_text(written)
    old = bundle_facts(node, "old")
    assert old is not None
    assert old.shares == {}
    assert bundle_facts(node, "gone") is bundle_facts(node, "torn") is bundle_facts(node, "") is None
    assert "bundle torn cannot be read" in caplog.text


def test_no_packet_of_a_page_waits_for_the_receipt_of_the_one_before():
    with _listening(ReviewPage(port=free_port())) as door, socket.create_connection(door.getsockname()):
        connection, _ = door.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
