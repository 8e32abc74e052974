"""Penalties, one per file, that keep a network near its source or shrink features that transfer badly."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from med_transfer.backbones import Encoder
from med_transfer.finetuning.regularisation.bss import BatchSpectralShrinkage
from med_transfer.finetuning.regularisation.delta import Delta
from med_transfer.finetuning.regularisation.l2_sp import L2SP
from med_transfer.finetuning.regularisation.penalty import Penalty, Step
from med_transfer.finetuning.transfer_config import TransferConfig

__all__ = ["L2SP", "BatchSpectralShrinkage", "Delta", "Penalty", "Step", "find_penalties"]


def find_penalties(
    config: TransferConfig, source: Encoder, attention: Mapping[int, Tensor] | None = None
) -> list[Penalty]:
    """The penalties that the config names, relative to the present ``source``; ``attention`` is DELTA's, by stage."""
    penalties: list[Penalty] = []
    if "l2_sp" in config.regularise:
        penalties.append(L2SP(source, config.l2_sp.strength, config.l2_sp.head_strength))
    if "delta" in config.regularise:
        penalties.append(Delta(source, config.delta.strength, attention))
    if "bss" in config.regularise:
        penalties.append(BatchSpectralShrinkage(config.bss.strength, config.bss.k))
    return penalties
