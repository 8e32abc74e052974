"""Residual bottleneck adapters after the stages of an encoder whose own weights stay frozen.

They are stored beside the stages (``encoder.adapters.0.down.weight``, ...), so the names of the encoder's own tensors
do not change.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder
from med_transfer.errors import BackboneError


class Adapter(nn.Module):
    """Adapter ``x + up(gelu(down(x)))`` at every voxel: a pointwise projection to fewer channels and back.

    ``up`` starts at zero, so that a new adapter is the identity. Input and output are [batch, channel, *space].
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.down, self.up = nn.Linear(channels, inner), nn.Linear(inner, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map plus its correction."""
        change = self.up(F.gelu(self.down(x.movedim(1, -1))))
        return x + change.movedim(-1, 1)


@dataclass(frozen=True)
class _AfterStage:
    """Forward hook; an object instead of a function, so that a copied encoder gets hooks with its own adapters."""

    adapter: Adapter

    def __call__(self, stage: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self.adapter(output)


def adapted_stages(encoder: Encoder) -> list[nn.Module]:
    """Return, for each stage after the stem, the encoder's module whose output is the output of the stage.

    For a stage composed of several modules (downsampling, then blocks) it is the last of them.

    Raises:
        BackboneError: a stage does not end in a module of the encoder, so no adapter can follow it.
    """
    own = {id(module) for module in encoder.modules()}
    last = [_last_module(stage, own) for stage in encoder.stages()[1:]]
    adapted = [module for module in last if module is not None]
    if len(adapted) != len(encoder.stage_channels):
        raise BackboneError(
            "adapters cannot be placed: not every stage of this backbone ends in a module of its own",
            where=type(encoder).__name__,
            expected="a stem, then one stage for each feature map",
            action="Choose another transfer.strategy, for example lora",
        )
    return adapted


def _last_module(stage: nn.Module, own: Collection[int]) -> nn.Module | None:
    """The stage itself if the encoder owns it, else its last owned descendant; None if there is none."""
    while id(stage) not in own:
        parts = list(stage.children())
        if not parts:
            return None
        stage = parts[-1]
    return stage


def add_adapters(encoder: Encoder, reduction: int) -> None:
    """Add an adapter after each stage, in place. Raises BackboneError like :func:`adapted_stages`."""
    stages = adapted_stages(encoder)
    adapters = nn.ModuleList(Adapter(channels, reduction) for channels in encoder.stage_channels)
    encoder.add_module("adapters", adapters)
    for stage, adapter in zip(stages, adapters, strict=True):
        stage.register_forward_hook(_AfterStage(adapter))  # type: ignore[arg-type]
