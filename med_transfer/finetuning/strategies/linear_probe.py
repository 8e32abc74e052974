"""Frozen features and a logistic regression: the cheapest transfer, and the hardest to over-fit."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from med_transfer.finetuning.strategies.strategy import Strategy


class LinearProbe(Strategy):
    """Nothing of the encoder changes, its statistics included; the head is scikit-learn's, see linear_head.py."""

    head_from_probe: ClassVar[bool] = True
    trains: ClassVar[bool] = False
    all_stages_frozen: ClassVar[bool] = True

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        return ()
