"""Learning rates by depth and over time: discriminative rates (Howard & Ruder 2018), warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from med_transfer.finetuning.config import TrainingConfig
from med_transfer.finetuning.strategies import Strategy
from med_transfer.model.classifier import Classifier
from med_transfer.pretraining.optimisation import decay_groups


def parameter_groups(classifier: Classifier, strategy: Strategy, weight_decay: float) -> list[dict]:
    """Parameter groups, each at the strategy's rate: the head, then the stages from the deepest to the stem.

    Biases and norm layers get no weight decay. Frozen parameters are left out.
    """
    stages = classifier.encoder.stages()
    in_stages = {id(p) for stage in stages for p in stage.parameters()}
    head = [p for p in classifier.parameters() if id(p) not in in_stages]
    groups = _groups(head, strategy.rate(), weight_decay)
    for depth, stage in enumerate(reversed(stages)):
        groups += _groups(stage.parameters(), strategy.rate(depth), weight_decay)
    return groups


def _groups(parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> list[dict]:
    """The groups at this learning rate that are not empty."""
    return [group | {"lr": rate} for group in decay_groups(parameters, weight_decay) if group["params"]]


def optimiser(
    classifier: Classifier,
    config: TrainingConfig,
    strategy: Strategy,
    steps_per_epoch: int,
    *,
    decay: bool = True,
    extra_parameters: Sequence[nn.Parameter] = (),
) -> tuple[AdamW, LambdaLR]:
    """AdamW and its schedule, stepped once per batch: linear warm-up, then cosine decay to 1 % of the rate.

    ``extra_parameters`` get the head's rate and no weight decay; with ``decay=False`` no parameter gets any.

    With stochastic weight averaging, the rate is held constant once averaging begins (Izmailov et al. 2018).
    """
    groups = parameter_groups(classifier, strategy, config.weight_decay if decay else 0.0)
    extra = [{"params": list(extra_parameters), "lr": strategy.rate(), "weight_decay": 0.0}] if extra_parameters else []
    adamw = AdamW(groups + extra)
    warmup = config.warmup_epochs * steps_per_epoch
    total = max(config.epochs * steps_per_epoch, 1)
    last = config.swa_start * total if config.averaging == "swa" else total

    def factor(step: int) -> float:
        step = min(step, math.ceil(last))
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(total - warmup, 1)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return adamw, LambdaLR(adamw, factor)
