"""Residual bottlenecks after the stages of an encoder, for networks whose own weights stay frozen.

They sit beside the stages (``encoder.adapters.0.down.weight``, ...) and change no name of the encoder's own tensors.
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
    """``x + up(gelu(down(x)))`` at every voxel: a convolution of kernel 1 to fewer channels and one back.

    ``up`` starts at zero, so that a new adapter changes nothing. Input and output: [batch, channel, *space].
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.down, self.up = nn.Linear(channels, inner), nn.Linear(inner, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """The map plus its correction."""
        change = self.up(F.gelu(self.down(x.movedim(1, -1))))
        return x + change.movedim(-1, 1)


@dataclass(frozen=True)
class _AfterStage:
    """A forward hook; an object and no function, so that a copy of the encoder gets hooks with its own adapters."""

    adapter: Adapter

    def __call__(self, stage: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self.adapter(output)


def adapted_stages(encoder: Encoder) -> list[nn.Module]:
    """For each stage after the stem the module of the encoder whose output is the stage's.

    A stage that is put together of several modules (halving, then blocks) gives what the last of them gives.

    Raises:
        BackboneError: a stage ends in no module of the encoder, so nothing can be put after it.
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
    """The stage itself where the encoder holds it, else what stands last in it; None where there is nothing."""
    while id(stage) not in own:
        parts = list(stage.children())
        if not parts:
            return None
        stage = parts[-1]
    return stage


def add_adapters(encoder: Encoder, reduction: int) -> None:
    """Put an adapter after each stage, in place. Raises BackboneError as :func:`adapted_stages`."""
    stages = adapted_stages(encoder)
    adapters = nn.ModuleList(Adapter(channels, reduction) for channels in encoder.stage_channels)
    encoder.add_module("adapters", adapters)
    for stage, adapter in zip(stages, adapters, strict=True):
        stage.register_forward_hook(_AfterStage(adapter))  # type: ignore[arg-type]
