"""Optimisation: learning rate schedule, weight decay, and the running mean of the weights, which is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def learning_rate_share(progress: float, warm_up: float) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine to zero; ``progress`` in [0, 1]."""
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm_up) / max(1 - warm_up, 1e-9))))


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict]:
    """AdamW's groups: weights with decay, then biases and norm layers without; frozen parameters are left out."""
    learning = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move every weight and statistic of ``average`` towards ``module``, in place; counters are copied."""
    current = module.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])
