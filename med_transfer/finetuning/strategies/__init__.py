"""Transfer strategies, one a file: what of a network learns, from which start, in which epoch."""

from __future__ import annotations

from collections.abc import Callable

from med_transfer.finetuning.strategies.adapters import Adapters
from med_transfer.finetuning.strategies.full import Full
from med_transfer.finetuning.strategies.gradual_unfreezing import GradualUnfreezing
from med_transfer.finetuning.strategies.layerwise_lr_decay import LayerwiseLRDecay
from med_transfer.finetuning.strategies.linear_probe import LinearProbe
from med_transfer.finetuning.strategies.lora import LoRA
from med_transfer.finetuning.strategies.lp_ft import ProbeThenFinetune
from med_transfer.finetuning.strategies.scratch import Scratch
from med_transfer.finetuning.strategies.strategy import Strategy
from med_transfer.finetuning.strategies.surgical import Surgical
from med_transfer.finetuning.transfer_config import TransferConfig

__all__ = ["STRATEGIES", "Strategy", "find_strategy"]

STRATEGIES: dict[str, Callable[[TransferConfig], Strategy]] = {
    "scratch": lambda config: Scratch(),
    "linear_probe": lambda config: LinearProbe(),
    "full": lambda config: Full(),
    "layerwise_lr_decay": lambda config: LayerwiseLRDecay(),
    "lp_ft": lambda config: ProbeThenFinetune(),
    "gradual_unfreezing": lambda config: GradualUnfreezing(config.gradual_unfreezing.epochs_per_stage),
    "surgical": lambda config: Surgical(config.surgical.stages),
    "lora": lambda config: LoRA(config.lora.rank, config.lora.alpha),
    "adapters": lambda config: Adapters(config.adapters.reduction),
}


def find_strategy(config: TransferConfig) -> Strategy:
    """The strategy of a resolved config (``auto`` has none)."""
    return STRATEGIES[config.strategy](config)
