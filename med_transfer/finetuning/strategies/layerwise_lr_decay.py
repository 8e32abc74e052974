"""Fine-tuning of everything, the slower the nearer to the input."""

from __future__ import annotations

from typing import ClassVar

from med_transfer.finetuning.strategies.strategy import Strategy


class LayerwiseLRDecay(Strategy):
    """Every stage learns, each at a share of the next deeper one's rate: general features lie near the input.

    BatchNorm: scale and shift learn, statistics as ``transfer.batch_norm`` says.
    Source: discriminative fine-tuning, Howard & Ruder 2018, arXiv:1801.06146.
    """

    stage_decay: ClassVar[float] = 0.7
