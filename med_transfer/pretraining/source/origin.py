"""The origin of a pretrained encoder, stored with its weights and its curve."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from med_transfer.bundle.provenance import LOCK_METADATA
from med_transfer.cohorts import SourceLock
from med_transfer.pretraining.config import PretrainingConfig

# Settings that may change when a run is resumed: locations of files, and speed.
_CHANGEABLE_SETTINGS = {
    "weights": True,
    "checkpoint_seconds": True,
    "channels_last": True,
    "distillation": {"teacher_weights"},
    "probe": {"cohort"},
}


def same_settings(kept: str, wanted: str) -> bool:
    """Whether both are :meth:`Origin.settings` of one run.

    A key that is missing in ``kept`` counts as its default, so that a newer version can resume an older one's run.
    """
    config, *others = json.loads(kept)
    wanted_config, *wanted_others = json.loads(wanted)
    default = PretrainingConfig(steps=1).model_dump(mode="json", exclude=_CHANGEABLE_SETTINGS)
    return others == wanted_others and _completed(config, default) == wanted_config


def _completed(kept: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _completed(kept[key], one) for key, one in default.items() if _both_nested(kept.get(key), one)}
    return {**default, **kept, **nested}


def _both_nested(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


@dataclass(frozen=True)
class Origin:
    """Where the weights of a pretraining come from.

    Attributes:
        config: of the pretraining.
        lock: all patients and scans it has learned from: its source, what its initial weights and its teacher had seen,
            and the probe's cohort if that decides when to stop.
        source_scans: content hashes of the source's own scans.
        start_sha256, teacher_sha256: of the initial weights and of the teacher's; empty without.
        licences: of these weights.
        processes: number of processes that trained together.
        taught: hashes of the labels, regions and masks of the source; empty if it has none.
    """

    config: PretrainingConfig
    lock: SourceLock
    source_scans: tuple[str, ...]
    start_sha256: str = ""
    teacher_sha256: str = ""
    licences: tuple[str, ...] = ()
    processes: int = 1
    taught: tuple[str, ...] = ()

    def settings(self) -> str:
        """Settings, as JSON, that a checkpoint must share with a run that resumes it; known before scans are read."""
        config = self.config.model_dump(mode="json", exclude=_CHANGEABLE_SETTINGS)
        return json.dumps([config, self.start_sha256, self.teacher_sha256, self.processes], sort_keys=True)

    def record(self, step: int, seconds: float, device: torch.device) -> dict:
        """The origin as JSON-compatible values, for ``curve.json``."""
        shown = self.config.model_dump(mode="json", exclude={"weights": True, "distillation": {"teacher_weights"}})
        shown["probe"].pop("cohort")
        return {
            "method": self.config.method,
            "backbone": self.config.backbone,
            "config": shown,
            "start_sha256": self.start_sha256,
            "teacher_sha256": self.teacher_sha256,
            "licences": list(self.licences),
            "source_scans": sorted(self.source_scans),
            "seed": self.config.seed,
            "processes": self.processes,
            "steps": step,
            "crops_seen": step * self.config.batch * self.processes,
            "seconds": round(seconds, 1),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        }

    def metadata(self, step: int, seconds: float, device: torch.device) -> dict[str, str]:
        """The record as strings, with the lock, for the header of a weights file."""
        record = self.record(step, seconds, device)
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
        return texts | {LOCK_METADATA: self.lock.model_dump_json(by_alias=True)}
