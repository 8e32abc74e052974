"""No transfer: the same network from random values."""

from __future__ import annotations

from typing import ClassVar

from med_transfer.finetuning.strategies.strategy import Strategy


class Scratch(Strategy):
    """Everything learns at one, higher rate; nothing is frozen, slowed or kept. BatchNorm learns its own statistics."""

    learning_rate: ClassVar[float] = 1e-3
