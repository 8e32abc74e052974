"""A linear probe first, then fine-tuning of everything from its head."""

from __future__ import annotations

from typing import ClassVar

from med_transfer.finetuning.strategies.strategy import Strategy


class ProbeThenFinetune(Strategy):
    """As ``full``, but the head starts from the linear probe's, so that its first, large errors distort no feature.

    BatchNorm: scale and shift learn, statistics as ``transfer.batch_norm`` says.
    Source: Kumar et al. 2022, ICLR, arXiv:2202.10054.
    """

    head_from_probe: ClassVar[bool] = True
