"""The head first, then one stage more at a time, from the deepest to the stem."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from med_transfer.finetuning.strategies.strategy import Strategy


class GradualUnfreezing(Strategy):
    """In the first ``epochs_per_stage`` epochs only the head learns; then a stage joins every ``epochs_per_stage``.

    Earlier stages also learn slower, as in the paper. BatchNorm: a frozen stage keeps its statistics, a learning one
    does as ``transfer.batch_norm`` says. Source: Howard & Ruder 2018, arXiv:1801.06146.
    """

    stage_decay: ClassVar[float] = 0.7

    def __init__(self, epochs_per_stage: int = 1) -> None:
        self.epochs_per_stage = epochs_per_stage

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        return range(max(0, n_stages - epoch // self.epochs_per_stage), n_stages)
