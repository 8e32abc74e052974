"""Networks, settings and runs small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from med_transfer.backbones import Encoder, InputSpec
from med_transfer.cohorts import SourceLock
from med_transfer.pretraining import CropConfig, PretrainingConfig, SourceScans
from med_transfer.pretraining.loop import Training
from med_transfer.pretraining.methods.contrastive import Contrastive
from med_transfer.pretraining.methods.distillation import Distillation
from med_transfer.pretraining.methods.masked_autoencoding import MaskedAutoencoding
from med_transfer.pretraining.methods.method import Method, PretrainingContext
from med_transfer.pretraining.methods.painted_lesions import PaintedLesions
from med_transfer.pretraining.methods.painted_nodules import PaintedNodules
from med_transfer.pretraining.methods.supervised import SupervisedLabels, SupervisedMasks
from med_transfer.pretraining.methods.teacher import Teacher
from med_transfer.pretraining.source.origin import Origin

METHODS = (
    "distillation",
    "labels",
    "masks",
    "masked_autoencoding",
    "contrastive",
    "painted_nodules",
    "painted_lesions",
)
CPU = torch.device("cpu")
STUDENT_INPUT = InputSpec(1, "SPL", (-1000.0, 1000.0), (-1.0, 1.0), minimum_shape=(8, 8, 8))
TEACHER_INPUT = InputSpec(1, "SRA", (-1000.0, 200.0), (0.0, 1.0), minimum_shape=(8, 16, 16))
SETTINGS = {
    "steps": 4,
    "batch": 8,
    "validation_scans": 1,
    "warm_up": 0.1,
    "input_shape": (8, 8, 8),
    "checkpoint_seconds": 1e6,
    "crops": CropConfig(shape=(8, 16, 16), scans_per_batch=2),
    "ema": 0.9,
    "distillation": {"stages": 2, "calibration_batches": 2},
    "contrastive": {"embedding": 16},
    "masked_autoencoding": {"block": 4, "statistics_batches": 2},
    "painted_nodules": {"located_stages": 2, "calibration_batches": 2},
}


class TinyEncoder(Encoder):
    """Three strided blocks, each convolution, BatchNorm, ReLU."""

    def __init__(self, channels: tuple[int, ...], first_stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.stage_channels = channels[1:]
        blocks = []
        for n, (i, o) in enumerate(zip((1, *channels), channels, strict=False)):
            stride = first_stride if n == 0 else 2
            blocks.append(nn.Sequential(nn.Conv3d(i, o, 3, stride, 1, bias=False), nn.BatchNorm3d(o), nn.ReLU()))
        self.blocks = nn.ModuleList(blocks)

    def stages(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, x):
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps[1:]


def tiny_student() -> TinyEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TinyEncoder((8, 8, 16, 16), (1, 1, 1))


def tiny_teacher() -> TinyEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = TinyEncoder((8, 12, 16, 24), (1, 2, 2))
        teacher.train()
        for _ in range(3):  # statistics other than the initial ones
            teacher(torch.rand(2, 1, 8, 16, 16) * 3)
    return teacher.eval()


def tiny_config(method: str, **changes) -> PretrainingConfig:
    supervised = {"target": "mask" if method == "masks" else "label"}
    name = "supervised" if method in ("labels", "masks") else method
    scenes = {"lung_scenes": {"lung": 1, "nodule": (0.8, 0.8)}} if method == "painted_nodules" else {}
    return PretrainingConfig(**(SETTINGS | {"method": name, "supervised": supervised} | scenes | changes))


def tiny_method(method: str, source: SourceScans, **changes) -> Method:
    config = tiny_config(method, **changes)
    training, validation = source.split(config.validation_scans)
    context = PretrainingContext(config, STUDENT_INPUT, training, validation, CPU, pooled_stages=(0, -1))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        if method == "distillation":
            return Distillation(tiny_student(), context, Teacher(tiny_teacher(), TEACHER_INPUT, 2))
        kinds = {
            "masked_autoencoding": MaskedAutoencoding,
            "contrastive": Contrastive,
            "labels": SupervisedLabels,
            "masks": SupervisedMasks,
            "painted_nodules": PaintedNodules,
            "painted_lesions": PaintedLesions,
        }
        return kinds[method](tiny_student(), context)


def tiny_training(method: str, source: SourceScans, out: Path, progress=None, **changes) -> Training:
    made = tiny_method(method, source, **changes)
    lock = SourceLock.of(set(source.patient_hashes), set(source.content_hashes))
    origin = Origin(made.config, lock, source.content_hashes, teacher_sha256="0" * 64, taught=source.taught)
    return Training(made, origin, out, **({"progress": progress} if progress else {}))


def curve(out: Path) -> list[dict]:
    """Without the times, which differ from run to run."""
    entries = json.loads((out / "curve.json").read_text())["curve"]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]


def measured(out: Path) -> list[dict[str, float]]:
    return [entry["measured"] for entry in curve(out) if "measured" in entry]
