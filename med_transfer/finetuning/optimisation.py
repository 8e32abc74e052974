"""Learning rates by depth, and by time: discriminative rates (Howard & Ruder 2018), warm-up and cosine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from med_transfer.errors import ConfigError
from med_transfer.finetuning.config import TrainingConfig
from med_transfer.model.classifier import Classifier


def parameter_groups(classifier: Classifier, config: TrainingConfig, *, decay: bool = True) -> list[dict]:
    """Groups for the optimiser: the head and deepest stage learn fastest, each earlier stage ``stage_decay`` slower.

    Biases and norm layers get no weight decay; with ``decay`` False nothing does. Frozen parameters are left out.
    """
    rate, stage_decay, weight_decay = config.learning_rate, config.stage_decay, config.weight_decay if decay else 0.0
    if rate is None or stage_decay is None:
        raise ConfigError("no learning rate", where="training.learning_rate", expected="a resolved TrainingConfig")
    stages = classifier.encoder.stages()
    in_stages = {id(p) for stage in stages for p in stage.parameters()}
    head = [p for p in classifier.parameters() if id(p) not in in_stages]
    groups = _with_and_without_decay(head, rate, weight_decay)
    for depth, stage in enumerate(reversed(stages)):
        groups += _with_and_without_decay(stage.parameters(), rate * stage_decay**depth, weight_decay)
    return groups


def _with_and_without_decay(parameters: Iterable[nn.Parameter], rate: float, decay: float) -> list[dict]:
    learning = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "lr": rate, "weight_decay": decay},
        {"params": [p for p in learning if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def optimiser(
    classifier: Classifier,
    config: TrainingConfig,
    steps_per_epoch: int,
    *,
    decay: bool = True,
    extra_parameters: Sequence[nn.Parameter] = (),
) -> tuple[AdamW, LambdaLR]:
    """AdamW and its schedule, stepped once a batch: linear warm-up, then a cosine down to 1 % of the rate.

    What learns ``extra_parameters`` the classifier has the head's rate and no weight decay.

    For stochastic weight averaging the rate stays where it is when averaging begins (Izmailov et al. 2018).
    """
    groups = parameter_groups(classifier, config, decay=decay)
    rate = config.learning_rate
    adamw = AdamW(
        groups + ([{"params": list(extra_parameters), "lr": rate, "weight_decay": 0.0}] if extra_parameters else [])
    )
    last = config.swa_start if config.averaging == "swa" else 1.0
    warmup = config.warmup_epochs * steps_per_epoch
    total = max(config.epochs * steps_per_epoch, 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(total - warmup, 1)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, last)))

    return adamw, LambdaLR(adamw, factor)
