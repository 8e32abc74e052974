"""Only chosen stages and the head learn."""

from __future__ import annotations

from collections.abc import Collection

from med_transfer.backbones import Encoder
from med_transfer.finetuning.strategies.strategy import Strategy, check_stages


class Surgical(Strategy):
    """The first stages where scans look different (scanner, kernel, contrast), the last where the question differs.

    BatchNorm: a frozen stage keeps its statistics, a learning one does as ``transfer.batch_norm`` says.
    Source: surgical fine-tuning, Lee et al. 2023, ICLR, arXiv:2210.11466.
    """

    def __init__(self, stages: tuple[int, ...]) -> None:
        self.stages = stages

    def learning_stages(self, epoch: int, n_stages: int) -> Collection[int]:
        return self.stages

    def check(self, encoder: Encoder) -> None:
        check_stages(encoder, self.stages, "transfer.surgical.stages")
