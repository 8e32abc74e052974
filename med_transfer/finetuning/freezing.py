"""What of the source network stays as it is: stages, and the running statistics of BatchNorm."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from med_transfer.backbones import Encoder
from med_transfer.errors import ConfigError


def freeze_stages(encoder: Encoder, count: int) -> None:
    """Stop the first ``count`` stages (the stem is the first) from learning.

    Raises:
        ConfigError: when there are not that many.
    """
    stages = encoder.stages()
    if count > len(stages):
        raise ConfigError(
            f"{count} stages to freeze", where="training.freeze_stages", expected=f"at most {len(stages)}"
        )
    for stage in stages[:count]:
        stage.requires_grad_(False)


def keep_norm_statistics(module: nn.Module) -> None:
    """Put every BatchNorm in evaluation mode, so that it normalises with the source's running statistics.

    With a batch of a few scans, statistics of the batch are noise. Call it after ``train()``, which undoes it.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
