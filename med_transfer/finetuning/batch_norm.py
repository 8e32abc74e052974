"""BatchNorm's statistics: the source's, the target's, or each batch's."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from med_transfer.backbones import Encoder
from med_transfer.errors import ConfigError


def check_batch_norm(encoder: Encoder) -> None:
    """Refuse a backbone without BatchNorm layers that have running statistics. Raises ConfigError."""
    if not _layers(encoder):
        raise ConfigError(
            "bn_adapt with a backbone that has no BatchNorm: there are no statistics to adapt",
            where="transfer.batch_norm",
            expected="source or auto",
        )


@torch.no_grad()
def check_batch_of_one(encoder: Encoder, n_channels: int, shape: Sequence[int]) -> None:
    """Refuse batches of one scan if BatchNorm cannot train on them. It costs one forward pass through a copy.

    Raises:
        ConfigError: some feature map is a single voxel, which has no variance.
    """
    try:
        copy.deepcopy(encoder).train()(torch.zeros(1, n_channels, *shape))
    except ValueError as error:
        raise ConfigError(
            f"batches of one scan, of which BatchNorm is to learn a map of one voxel: {error}",
            where="training.batch_size",
            expected="at least 2, or a larger input.shape",
            action="With a source: transfer.batch_norm=source, and from_scratch_baseline=false",
        ) from error


@torch.no_grad()
def adapt_statistics(encoder: Encoder, batches: Iterable[Tensor]) -> None:
    """Replace the source's statistics by those of these images; weights do not change and labels are not used.

    One pass is made: a layer normalises each batch by the mean and variance of all images up to and including it, and
    keeps those of all images. The first layer's statistics are exact. Those of deeper layers depend slightly on how the
    images are batched and ordered, so the order should be unrelated to the classes.

    Args:
        encoder: left in evaluation mode.
        batches: of images [batch, channel, depth, height, width], on the encoder's device; of any size.

    Raises:
        ConfigError: the first batch is a single scan and some feature map a single voxel, which has no variance.

    Source: AdaBN, Li et al. 2016, arXiv:1603.04779.
    """
    encoder.eval()
    hooks = [layer.register_forward_pre_hook(_Pooled()) for layer in _layers(encoder)]
    try:
        for images in batches:
            encoder(images)
    finally:
        for hook in hooks:
            hook.remove()


class _Pooled:
    """Pre-forward hook that sets a layer's statistics to those of all its inputs so far, the present one included.

    Attributes:
        count, mean, squares: number of values per channel so far, their mean and sum of squared deviations, updated
            batch by batch (Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115) in double precision.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        self._add(inputs[0])
        if self.count < 2:
            raise ConfigError(
                "bn_adapt with a single value a channel: it has no variance",
                where="transfer.batch_norm",
                expected="at least two training scans, or a larger input.shape",
            )
        layer.get_buffer("running_mean").copy_(self.mean)
        layer.get_buffer("running_var").copy_(self.squares / (self.count - 1))

    def _add(self, values: Tensor) -> None:
        n = values.numel() // values.shape[1]
        variance, mean = torch.var_mean(values, [0, *range(2, values.ndim)], correction=0)
        total, shift = self.count + n, mean.double() - self.mean
        self.squares = self.squares + n * variance.double() + shift**2 * (self.count * n / total)
        self.mean, self.count = self.mean + shift * (n / total), total


def keep_frozen_statistics(encoder: Encoder, *, everywhere: bool) -> None:
    """Set BatchNorm to evaluation mode, everywhere or only in frozen stages; elsewhere to training mode.

    Statistics of a batch of a few scans are noise, and a frozen stage must not change through its statistics. Call it
    whenever the set of learning stages changes, and after ``train()``, which undoes it.
    """
    for stage in encoder.stages():
        learns = any(parameter.requires_grad for parameter in stage.parameters())
        for layer in stage.modules():
            if isinstance(layer, _BatchNorm):
                layer.train(learns and not everywhere)


def _layers(encoder: Encoder) -> list[_BatchNorm]:
    return [m for m in encoder.modules() if isinstance(m, _BatchNorm) and isinstance(m.running_mean, torch.Tensor)]
