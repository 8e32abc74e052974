"""How many numbers a network learns, counted without making any of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def count_parameters(build: Callable[[], nn.Module]) -> int:
    """Of what ``build`` builds, on the meta device."""
    with torch.device("meta"):
        return sum(values.numel() for values in build().parameters())
