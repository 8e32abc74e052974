"""Losses, one per file, that make the features of labelled and unlabelled scans alike during training."""

from __future__ import annotations

from collections.abc import Callable

from med_transfer.finetuning.alignment.alignment import Alignment
from med_transfer.finetuning.alignment.coral import DeepCoral
from med_transfer.finetuning.alignment.dann import DomainAdversary
from med_transfer.finetuning.alignment.mmd import MultiKernelMMD
from med_transfer.finetuning.transfer_config import AlignConfig

__all__ = ["ALIGNMENTS", "Alignment", "DeepCoral", "DomainAdversary", "MultiKernelMMD", "find_alignment"]

ALIGNMENTS: dict[str, Callable[[float, int], Alignment]] = {
    "mmd": lambda weight, n_features: MultiKernelMMD(weight),
    "coral": lambda weight, n_features: DeepCoral(weight),
    "dann": DomainAdversary,
}


def find_alignment(config: AlignConfig | None, n_features: int) -> Alignment | None:
    """The alignment loss that the config names, for ``n_features`` features; None without a config."""
    return ALIGNMENTS[config.method](config.weight, n_features) if config else None
