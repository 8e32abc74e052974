"""What BatchNorm normalises with: the source's statistics, the target's, or each batch's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from med_transfer.backbones import Encoder
from med_transfer.errors import ConfigError


def check_batch_norm(encoder: Encoder) -> None:
    """Raises ConfigError for a backbone that has no BatchNorm with statistics."""
    if not _layers(encoder):
        raise ConfigError(
            "bn_adapt with a backbone that has no BatchNorm: there are no statistics to adapt",
            where="transfer.batch_norm", expected="source or auto",
        )  # fmt: skip


def adapt_statistics(encoder: Encoder, batches: Iterable[Tensor]) -> None:
    """Put the statistics of these images in the place of the source's; no weight changes, no label is read.

    Means and variances are averaged over batches. Stages are adapted together in one pass, as in PyTorch's
    ``update_bn``. A batch of a single scan is left out: a map of one voxel has no variance.

    Args:
        encoder: left in evaluation mode.
        batches: of images [batch, channel, depth, height, width], on the encoder's device.

    Source: AdaBN, Li et al. 2016, arXiv:1603.04779.
    """
    update_bn((images for images in batches if len(images) > 1), encoder)
    encoder.eval()


def keep_frozen_statistics(encoder: Encoder, *, everywhere: bool) -> None:
    """Put BatchNorm in evaluation mode, everywhere or only in stages of which nothing learns.

    With a batch of a few scans, statistics of the batch are noise; and a stage that never changes must not change by
    its statistics. Call it after ``train()``, which undoes it.
    """
    for stage in encoder.stages():
        if everywhere or not any(parameter.requires_grad for parameter in stage.parameters()):
            for layer in stage.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()


def _layers(encoder: Encoder) -> list[_BatchNorm]:
    return [m for m in encoder.modules() if isinstance(m, _BatchNorm) and isinstance(m.running_mean, torch.Tensor)]
