"""A node notices that the scans have drifted, across a restart, and tells a monitor and the page about its load."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from peers import series
from prometheus_client.parser import text_string_to_metric_families
from pydicom import dcmread
from tiny_bundle import tiny_bundle

from med_transfer.bundle import read_record
from med_transfer.bundle.decisions_lock import lock_hash
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.figures import Figures
from med_transfer.hospital.incoming import keep, received_file
from med_transfer.hospital.node import Node
from med_transfer.hospital.queue import Feedback
from med_transfer.hospital.review.load import Drift, drifts_of
from med_transfer.inference.drift import DriftMonitor
from med_transfer.predictions.record import Prediction


def watched_bundle(folder: Path) -> Path:
    """That knows what the middle grey value of its scans was."""
    file = tiny_bundle(folder) / "med_transfer.json"
    record = json.loads(file.read_text())
    record["input_envelope"] |= {"numbers": {"value_p50": [-450, -150]}, "false_alarms": 0.02, "n_scans": 60}
    file.write_text(json.dumps(record | {"lock_hash": lock_hash(record)}))
    return folder


def predict(node: Node, config: NodeConfig, study: int, brighter_hu: int = 0) -> None:
    """Receive a study and predict it."""
    for file in series(config.folder.parent / str(study), patient=f"PLANTED-{study}", study=study, slices=4):
        image = dcmread(file)
        image.RescaleIntercept = float(image.RescaleIntercept) + brighter_hu
        image.save_as(file)
        keep(config.folder, node.queue, received_file(file.read_bytes()), time.time(), 1000)
    node.queue.complete(time.time(), 0)
    predict_waiting(node)


def predict_waiting(node: Node) -> None:
    waiting = node.queue.to_predict(time.time())
    assert waiting is not None
    node.predict(waiting)


def months_before(bundle: Path, identity: str, folder: Path, like: dict[str, float]) -> None:
    """Three hundred scans of other patients, with answers like the one that the node has given."""
    monitor, rng = DriftMonitor(read_record(bundle), identity, folder), np.random.default_rng(0)
    for number in range(300):
        facts = {"value_p50": float(rng.normal(-300, 20))}
        scan = Prediction("a", patient=str(number), novelty=rng.random(), probabilities=like, facts=facts)
        monitor.observe(scan)
    assert not monitor.moved
    monitor.save()


def figures(config: NodeConfig, mark: str) -> dict[tuple[str, ...], float]:
    """Of the bundle, name and label to value."""
    measured = Figures(config, dict)
    families = list(text_string_to_metric_families(measured.exposition().decode()))
    measured.close()
    samples = [sample for family in families for sample in family.samples if sample.labels.get("bundle") == mark]
    return {
        (s.name.removeprefix("med_transfer_"), *(v for k, v in s.labels.items() if k != "bundle")): s.value
        for s in samples
    }


def quantity(drift: Drift, name: str):
    return next(one for one in drift.quantities if one.name == name)


def test_a_node_tells_that_its_scans_have_moved(tmp_path, caplog):
    config = NodeConfig.model_validate(
        {
            "folder": tmp_path / "state",
            "results": {"heat_map": "off", "secondary_capture": False},
            "study": {"keep_days": None},
        }
    )
    bundle = watched_bundle(tmp_path / "bundle")
    node = Node(config, bundle, "cpu")
    assert drifts_of(config, node.queue) == []
    predict(node, config, 1)
    mark, predictor = node._bundles.marks[""], node._bundles.predictors[""]
    (first,) = drifts_of(config, node.queue)
    assert (first.bundle, first.statuses) == (mark, {"ok": 1, "rejected": 0, "failed": 0})
    (study,) = node.queue.studies()
    assert node.queue.add_feedback(Feedback("ray", study.id, 1, 0, "rerun"), time.time())
    predict_waiting(node)
    assert drifts_of(config, node.queue) == [first], "asked again, it is no other scan"
    node.queue.close()
    months_before(bundle, predictor.identity, config.drift_folder(mark), {"benign": 0.5, "malignant": 0.5})
    node = Node(config, None, "cpu")
    for number in range(2, 8):
        predict(node, config, number, brighter_hu=600)
    (drift,) = drifts_of(config, node.queue)
    node.queue.close()
    assert drift.statuses["ok"] == 307
    moved = quantity(drift, "value_p50")
    assert moved.n_alarms
    assert moved.how == "rose"
    assert moved.recent > moved.mean > -300
    assert "moved: value_p50 rose" in caplog.text
    assert "PLANTED" not in caplog.text + (config.drift_folder(mark) / "drift.json").read_text()
    told = figures(config, mark)
    assert told["drift_alarms_total", "value_p50"] == moved.n_alarms
    assert told["scans_total", "ok"] == 307
