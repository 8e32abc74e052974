"""A node's folder with a study in it, as after its prediction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.incoming import keep, received_file
from med_transfer.hospital.node import Node


def analysed(folder: Path, bundle: Path, files: Sequence[Path], **described: str) -> NodeConfig:
    """Received and predicted, without the network between; ``described``: of every image, by DICOM keyword."""
    config = NodeConfig.model_validate(
        {
            "folder": folder,
            "results": {"heat_map": "plain"},
            "limits": {"disk_free_gib": 0},
            "study": {"keep_days": None},
        }
    )
    node = Node(config, bundle, "cpu")
    for file in files:
        image = dcmread(file)
        for keyword, value in described.items():
            setattr(image, keyword, value)
        image.save_as(file)
        keep(folder, node.queue, received_file(file.read_bytes()), time.time(), 1000)
    node.queue.complete(time.time(), 0)
    study = node.queue.to_predict(time.time())
    assert study is not None
    node.predict(study)
    node.queue.close()
    return config
