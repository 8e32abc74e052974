"""Count the parameters of a network without allocating them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def count_parameters(build: Callable[[], nn.Module]) -> int:
    """Return the number of parameters of the network that ``build`` builds, on the meta device."""
    with torch.device("meta"):
        return sum(values.numel() for values in build().parameters())
