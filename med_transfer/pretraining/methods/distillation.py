"""Distillation: a small student learns to reproduce a large teacher's feature maps on unlabelled scans.

After Romero et al. 2015 (FitNets), arXiv:1412.6550; the loss is described in losses.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.pretraining.methods.losses import DistillationLoss, VICReg
from med_transfer.pretraining.methods.method import Figures, Method, PretrainingContext
from med_transfer.pretraining.methods.teacher import Teacher


class Distillation(Method):
    """The student sees two degraded views of the teacher's input."""

    figure = "agreement"
    paints = True
    not_saved = ("teacher.encoder.",)

    def __init__(self, encoder: Encoder, context: PretrainingContext, teacher: Teacher) -> None:
        super().__init__(encoder, context)
        self.teacher, self.stages = teacher, context.config.distillation.stages
        channels = tuple(encoder.stage_channels[-self.stages :])
        self.loss = DistillationLoss(channels, teacher.channels)
        self.vicreg = VICReg(channels[-1])

    def begin(self) -> None:
        """Measure mean and spread of the teacher's channels."""
        self.teacher.calibrate([self.draw() for _ in range(self.config.distillation.calibration_batches)])

    def draw(self) -> Tensor:
        """HU crops [batch, 1, depth, height, width], with lung scenes if the config asks for them."""
        return self.painted(self.crops.batch(self.config.batch), self.scenes)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """``loss`` and its parts ``maps``, ``means`` and ``vicreg``, the last one unweighted."""
        targets = self.teacher(batch)
        views = torch.cat([self.windowed(batch) for _ in range(2)])
        with self.half_precision():
            maps = self.maps(views)
            on_maps, on_means = self.loss(maps[-self.stages :], targets)
            agreement = self.vicreg(maps[-1].mean((2, 3, 4)))
        total = on_maps + on_means + self.config.distillation.vicreg * agreement
        return {"loss": total, "maps": on_maps, "means": on_means, "vicreg": agreement}

    def quality(self, encoder: Encoder) -> Figures:
        """Explained variance (R squared) of the teacher's means: averaged over stages, and of each stage."""
        if self.held_out_hu is None:
            return {}
        truth = self.teacher(self.held_out_hu).means
        with self.half_precision():
            maps = self.maps(self.windowed(self.held_out_hu, degraded=False), encoder)[-self.stages :]
            means = self.loss.predicted_means(maps)
        explained = [
            float(1 - (m.float() - t).square().sum() / (t - t.mean(0)).square().sum())
            for m, t in zip(means, truth, strict=True)
        ]
        stages = {f"agreement_stage_{n - len(explained)}": value for n, value in enumerate(explained)}
        return {"agreement": sum(explained) / len(explained)} | stages


def teacher_dtype(device: torch.device) -> torch.dtype:
    """bf16 if the processor supports it natively, else float32.

    On a CPU only gradients are wrong in bf16 (docs/decisions/0006-no-bf16-on-a-cpu.md), and the teacher needs none.
    """
    native = device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if native else torch.float32
