"""Distillation: a small student learns to give a large teacher's feature maps on unlabelled scans.

Source of the idea: Romero et al. 2015 (FitNets), arXiv:1412.6550; what is compared is described in losses.py.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from med_transfer.backbones import Encoder, InputSpec, channels_last, load_backbone
from med_transfer.errors import BackboneError
from med_transfer.pretraining.config import DistillationConfig
from med_transfer.pretraining.crops import CropSampler
from med_transfer.pretraining.losses import DistillationLoss, VICReg
from med_transfer.pretraining.lung_scenes import LungScenes
from med_transfer.pretraining.reading import read_source
from med_transfer.pretraining.source import SourceScans
from med_transfer.pretraining.teacher import Teacher
from med_transfer.pretraining.views import CROP_ORIENTATION, Degradation, reduce, reorient, window

ENCODER_FILE, CURVE_FILE, CHECKPOINT_FILE = "encoder.safetensors", "curve.json", "checkpoint.pt"


def distil(config: DistillationConfig, scans: Path | SourceScans, out: Path, device: str = "cpu") -> Path:
    """Train the student on the scans of a folder and write it as a weights file that ``load_backbone`` reads.

    An interrupted run that is started again with the same arguments goes on where its last checkpoint stands.

    Args:
        config: see DistillationConfig.
        scans: a folder of CT scans, a file that ``SourceScans.save`` wrote, or scans already read.
        out: folder for ``encoder.safetensors``, ``curve.json`` and ``checkpoint.pt``.
        device: ``cpu``, ``cuda`` ...

    Raises:
        ScanNotFound: no usable scan in the folder.
        BackboneError: teacher or student cannot be built, or the checkpoint belongs to another run.
    """
    source = scans if isinstance(scans, SourceScans) else read_source(scans, config.spacing_mm)
    teacher = load_backbone(config.teacher, config.teacher_weights)
    student = load_backbone(config.student, scratch=True, seed=config.seed)
    pair = Pair(student.encoder, student.spec.input, teacher.encoder, teacher.spec.input, teacher.sha256 or "")
    return Distillation(config, source, pair, out, torch.device(device)).run()


@dataclass(frozen=True)
class Pair:
    """The two networks, what each expects as input, and the SHA-256 of the teacher's weights."""

    student: Encoder
    student_input: InputSpec
    teacher: Encoder
    teacher_input: InputSpec
    teacher_sha256: str


class Distillation:
    """One run."""

    def __init__(
        self, config: DistillationConfig, source: SourceScans, pair: Pair, out: Path, device: torch.device
    ) -> None:
        self.config, self.source, self.pair, self.out, self.device = config, source, pair, out, device
        torch.manual_seed(config.seed)  # initial values of the projections
        self.student = self._placed(pair.student)
        self.average = copy.deepcopy(self.student).eval().requires_grad_(False)
        teacher = Teacher(pair.teacher, pair.teacher_input, config.stages, teacher_dtype(device))
        self.teacher = self._placed(teacher)
        channels = tuple(pair.student.stage_channels[-config.stages :])
        self.loss = DistillationLoss(channels, self.teacher.channels).to(device)
        self.vicreg = VICReg(channels[-1]).to(device)
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=config.learning_rate, betas=(0.9, 0.99))
        training, self.validation = _split(source, config)
        self.crops = CropSampler(training, config.crops, device, config.seed)
        self.scenes = LungScenes(config.lung_scenes, device, config.seed + 1)
        self.degrade = Degradation(config.views, device, config.seed + 2)
        self.step, self.seconds, self.curve = 0, 0.0, []

    def run(self) -> Path:
        """Train until the budget is spent; returns the path of the encoder."""
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / CHECKPOINT_FILE).exists():
            self._restore()
        else:
            self.teacher.calibrate([self._hu() for _ in range(self.config.calibration_batches)])
        clock = _Clock(self.device, self.seconds)
        saved_at, log = self.seconds, _Log()
        while self._progress() < 1:
            log.add(self._train_step())
            self.seconds = clock.seconds()
            if self.step % 50 == 0:
                self._log(log)
            if self.seconds - saved_at > self.config.checkpoint_seconds:
                self._log(log)
                self._save()
                saved_at = self.seconds
        self._log(log)
        self._save()
        return self.out / ENCODER_FILE

    def _train_step(self) -> dict[str, Tensor]:
        rate = self.config.learning_rate * learning_rate_share(self._progress(), self.config.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        hu = self._hu()
        targets = self.teacher(hu)
        views = torch.cat([self._student_view(hu) for _ in range(2)])
        self.student.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            maps = self.student(views)
            on_maps, on_means = self.loss(maps[-self.config.stages :], targets)
            agreement = self.vicreg(maps[-1].mean((2, 3, 4)))
        total = on_maps + on_means + self.config.vicreg * agreement
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 5.0)
        self.optimizer.step()
        self.step += 1
        update_average(self.average, self.student, min(self.config.ema, self.step / (self.step + 10)))
        return {
            "loss": total.detach(),
            "maps": on_maps.detach(),
            "means": on_means.detach(),
            "vicreg": agreement.detach(),
        }

    def _hu(self) -> Tensor:
        return self.scenes(self.crops.batch(self.config.batch))

    def _student_view(self, hu: Tensor, degraded: bool = True) -> Tensor:
        spec = self.pair.student_input
        x = window(reduce(hu, self.config.student_shape), spec.window_hu, spec.output_range)
        x = self.degrade(x, spec.output_range) if degraded else x
        x = reorient(x, CROP_ORIENTATION, spec.orientation).expand(-1, spec.channels, -1, -1, -1)
        return x.contiguous(memory_format=self._layout)

    def _progress(self) -> float:
        """Share of the budget that is spent."""
        if self.config.steps is not None:
            return self.step / self.config.steps
        return self.seconds / (60 * float(self.config.minutes or 0))

    @torch.no_grad()
    def agreement(self) -> list[float] | None:
        """Explained variance of the teacher's means on crops of scans kept out, a stage each; None without any."""
        if self.validation is None:
            return None
        crops = CropSampler(self.validation, self.config.crops, self.device, seed=0).batch(self.config.batch)
        hu = LungScenes(self.config.lung_scenes, self.device, seed=0)(crops)
        truth = self.teacher(hu).means
        self.average.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            maps = self.average(self._student_view(hu, degraded=False))[-self.config.stages :]
            means = self.loss.predicted_means(maps)
        return [
            round(float(1 - (m.float() - t).square().sum() / (t - t.mean(0)).square().sum()), 4)
            for m, t in zip(means, truth, strict=True)
        ]

    def _log(self, log: _Log) -> None:
        if log.count:
            entry = {"step": self.step, "seconds": round(self.seconds, 2)} | log.means()
            self.curve.append(entry)
            log.reset()

    def _save(self) -> None:
        """The encoder, the curve and all that a resumed run needs, each in one move."""
        self.curve.append({"step": self.step, "seconds": round(self.seconds, 2), "agreement": self.agreement()})
        state = {
            "fingerprint": self._fingerprint(),
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "loss": self.loss.state_dict(),
            "vicreg": self.vicreg.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "statistics": self.teacher.statistics(),
            "crops": self.crops.state(),
            "scenes": self.scenes.random.get_state(),
            "degrade": self.degrade.random.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "curve": json.dumps(self.curve),
        }
        part = self.out / f"{CHECKPOINT_FILE}.part"
        torch.save(state, part)
        part.replace(self.out / CHECKPOINT_FILE)
        _replace(self.out / CURVE_FILE, json.dumps(self._record() | {"curve": self.curve}, indent=1).encode())
        _replace(self.out / ENCODER_FILE, save(_halved(self.average), metadata=self._metadata()))

    def _restore(self) -> None:
        path = self.out / CHECKPOINT_FILE
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["fingerprint"] != self._fingerprint():
            raise BackboneError(
                "checkpoint of another run",
                where=path,
                expected="the same source scans, teacher and settings",
                action="Give the arguments it was started with, or another folder",
            )
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.loss.load_state_dict(state["loss"])
        self.vicreg.load_state_dict(state["vicreg"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["statistics"].items():
            self.teacher.get_buffer(name).copy_(value)
        self.crops.restore(state["crops"])
        self.scenes.random.set_state(state["scenes"].cpu())
        self.degrade.random.set_state(state["degrade"].cpu())
        self.step, self.seconds, self.curve = state["step"], state["seconds"], json.loads(state["curve"])

    def _fingerprint(self) -> str:
        ours = self.config.model_dump(mode="json", exclude={"teacher_weights", "checkpoint_seconds", "channels_last"})
        return json.dumps([ours, sorted(self.source.content_hashes), self.pair.teacher_sha256], sort_keys=True)

    def _record(self) -> dict:
        """What this encoder came from; travels with the weights and the curve."""
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine()
        return {
            "method": "distillation",
            "config": self.config.model_dump(mode="json", exclude={"teacher_weights"}),
            "teacher_sha256": self.pair.teacher_sha256,
            "source_scans": sorted(self.source.content_hashes),
            "seed": self.config.seed,
            "steps": self.step,
            "crops_seen": self.step * self.config.batch,
            "seconds": round(self.seconds, 1),
            "device": device,
            "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        }

    def _metadata(self) -> dict[str, str]:
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self._record().items()}

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last_3d if self.config.channels_last else torch.contiguous_format

    def _placed(self, module):
        placed = module.to(device=self.device)
        return channels_last(placed) if self.config.channels_last else placed

    def _parameter_groups(self) -> list[dict]:
        """Weight decay on weights only, not on biases and normalisations (vectors)."""
        parameters = [p for m in (self.student, self.loss, self.vicreg) for p in m.parameters()]
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]


class _Clock:
    """Seconds of training, those of an interrupted run included; waits for the device now and then to stay honest."""

    def __init__(self, device: torch.device, spent: float) -> None:
        self._device, self._start, self._calls = device, time.perf_counter() - spent, 0

    def seconds(self) -> float:
        self._calls += 1
        if self._device.type == "cuda" and self._calls % 10 == 0:
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._start


class _Log:
    """Sums of the losses since the last entry of the curve, kept on the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count, self._sums, self._start = 0, {}, time.perf_counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        self.count += 1
        self._sums = {name: self._sums.get(name, 0) + value for name, value in losses.items()}

    def means(self) -> dict[str, float]:
        means = {name: round(float(value) / self.count, 5) for name, value in self._sums.items()}
        return means | {"steps_per_second": round(self.count / (time.perf_counter() - self._start), 3)}


def teacher_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the processor computes in it: only forward passes, which are sound on a CPU (decision 6)."""
    native = device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if native else torch.float32


def learning_rate_share(progress: float, warm_up: float) -> float:
    """Linear warm-up, then half a cosine to zero; ``progress`` in [0, 1]."""
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm_up) / (1 - warm_up))))


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move every weight and statistic of ``average`` towards ``module``; counters are copied."""
    current = module.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])


def _split(source: SourceScans, config: DistillationConfig) -> tuple[SourceScans, SourceScans | None]:
    """Training scans, and those kept out for validation (the first by content hash, so that order does not matter)."""
    if config.validation_scans == 0 or len(source) <= config.validation_scans:
        return source, None
    ordered = sorted(source.scans, key=lambda scan: scan.content_hash)
    kept_out, training = ordered[: config.validation_scans], ordered[config.validation_scans :]
    return SourceScans(tuple(training)), SourceScans(tuple(kept_out))


def _halved(encoder: nn.Module) -> dict[str, Tensor]:
    """Convolutions in fp16; vectors (normalisation), a thousandth of the size, keep their precision."""
    state = encoder.state_dict()
    return {name: (v.half() if v.ndim > 1 else v).cpu().contiguous() for name, v in state.items()}


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
