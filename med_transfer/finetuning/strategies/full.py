"""Fine-tuning of everything at one rate."""

from __future__ import annotations

from med_transfer.finetuning.strategies.strategy import Strategy


class Full(Strategy):
    """Every stage and the head learn from the first step at the same rate, unless ``training.stage_decay`` is set.

    BatchNorm: scale and shift learn, statistics as ``transfer.batch_norm`` says.
    """
