"""The origin of a pretrained encoder, stored with its weights and its curve."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from med_transfer.backbones import NetworkPlan
from med_transfer.backbones.nnunet.plan import PLAN_METADATA
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
    usual = PretrainingConfig(steps=1)
    default = usual.model_dump(mode="json", exclude=_CHANGEABLE_SETTINGS)
    return others == wanted_others and _completed(config, default, usual) == wanted_config


def _completed(kept: dict[str, Any], default: dict[str, Any], section: BaseModel) -> dict[str, Any]:
    """Settings with the default of those that are missing, also within sections, but not within a value (forms)."""
    inner = {
        key: _completed(kept[key], default[key], one)
        for key, one in section
        if isinstance(one, BaseModel) and isinstance(kept.get(key), dict)
    }
    return {**default, **kept, **inner}


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
        plan: the encoder's architecture and input, if they are read from a file (nnU-Net); None if its name tells them.
    """

    config: PretrainingConfig
    lock: SourceLock
    source_scans: tuple[str, ...]
    start_sha256: str = ""
    teacher_sha256: str = ""
    licences: tuple[str, ...] = ()
    processes: int = 1
    taught: tuple[str, ...] = ()
    plan: NetworkPlan | None = None

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
        """The record as strings, with the lock and the plan, for the header of a weights file."""
        record = self.record(step, seconds, device)
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
        texts[LOCK_METADATA] = self.lock.model_dump_json(by_alias=True)
        return texts | ({} if self.plan is None else {PLAN_METADATA: self.plan.model_dump_json()})
