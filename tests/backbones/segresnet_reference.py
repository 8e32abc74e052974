"""Independent encoders of SegResNet and SegResNetDS: names and shapes written out, the forward pass with torch only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Named = Iterator[tuple[str, tuple[int, ...]]]
OLD, DS = (1, 2, 2, 4), (1, 2, 2, 4, 4)  # blocks in each level
STATISTICS = ("running_mean", "running_var")


# The older network: MONAI's SegResNet ------------------------------------------------------------------------------


def old_encoder(first: int, blocks: Sequence[int] = OLD) -> Named:
    yield "convInit.conv.weight", (first, 1, 3, 3, 3)
    for level, count in enumerate(blocks):
        channels = first * 2**level
        if level:
            yield f"down_layers.{level}.0.conv.weight", (channels, channels // 2, 3, 3, 3)
        for block in range(1, 1 + count):
            yield from _old_block(f"down_layers.{level}.{block}", channels)


def old_decoder(first: int, classes: int) -> Named:
    for step, channels in enumerate((first * 4, first * 2, first)):
        yield from _old_block(f"up_layers.{step}.0", channels)
        yield f"up_samples.{step}.0.conv.weight", (channels, channels * 2, 1, 1, 1)
    yield from (("conv_final.0.weight", (first,)), ("conv_final.0.bias", (first,)))
    yield from (("conv_final.2.conv.weight", (classes, first, 1, 1, 1)), ("conv_final.2.conv.bias", (classes,)))


def _old_block(name: str, channels: int) -> Named:
    for number in (1, 2):
        yield f"{name}.norm{number}.weight", (channels,)
        yield f"{name}.norm{number}.bias", (channels,)
        yield f"{name}.conv{number}.conv.weight", (channels, channels, 3, 3, 3)


def old_forward(state: State, x: Tensor, blocks: Sequence[int] = OLD) -> list[Tensor]:
    """The map of each level; group normalisation in 8 groups."""

    def normalise(name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 8, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.conv3d(x, state["convInit.conv.weight"], padding=1)
    maps = []
    for level, count in enumerate(blocks):
        if level:
            x = F.conv3d(x, state[f"down_layers.{level}.0.conv.weight"], stride=2, padding=1)
        for block in range(1, 1 + count):
            name = f"down_layers.{level}.{block}"
            x = _residual(x, normalise, name, [state[f"{name}.conv{number}.conv.weight"] for number in (1, 2)])
        maps.append(x)
    return maps


# SegResNetDS: CT-FM with batch, VISTA3D with instance normalisation --------------------------------------------------


def ds_encoder(first: int, blocks: Sequence[int] = DS, batch_norm: bool = True) -> Named:
    yield "conv_init.weight", (first, 1, 3, 3, 3)
    for level, count in enumerate(blocks):
        channels = first * 2**level
        for block in range(count):
            yield from _ds_block(f"layers.{level}.blocks.{block}", channels, batch_norm)
        if level + 1 < len(blocks):
            yield f"layers.{level}.downsample.weight", (channels * 2, channels, 3, 3, 3)


def ds_decoder(first: int, classes: int, name: str = "up_layers", batch_norm: bool = True) -> Named:
    for step, channels in enumerate((first * 8, first * 4, first * 2, first)):
        yield f"{name}.{step}.upsample.deconv.weight", (channels * 2, channels, 3, 3, 3)
        yield from _ds_block(f"{name}.{step}.blocks.0", channels, batch_norm)
    yield from ((f"{name}.3.head.weight", (classes, first, 1, 1, 1)), (f"{name}.3.head.bias", (classes,)))


def _ds_block(name: str, channels: int, batch_norm: bool) -> Named:
    for number in (1, 2):
        for part in ("weight", "bias", *(STATISTICS if batch_norm else ())):
            yield f"{name}.norm{number}.{part}", (channels,)
        if batch_norm:
            yield f"{name}.norm{number}.num_batches_tracked", ()
        yield f"{name}.conv{number}.weight", (channels, channels, 3, 3, 3)


def ds_forward(state: State, x: Tensor, blocks: Sequence[int] = DS, batch_norm: bool = True) -> list[Tensor]:
    """The map of each level; stored statistics with batch, each scan's own with instance normalisation."""

    def normalise(name: str, x: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if batch_norm:
            return F.batch_norm(x, *(state[f"{name}.{part}"] for part in STATISTICS), weight, bias)
        mean = x.mean(dim=(2, 3, 4), keepdim=True)
        variance = x.var(dim=(2, 3, 4), keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt() * weight.view(-1, 1, 1, 1) + bias.view(-1, 1, 1, 1)

    x = F.conv3d(x, state["conv_init.weight"], padding=1)
    maps = []
    for level, count in enumerate(blocks):
        for block in range(count):
            name = f"layers.{level}.blocks.{block}"
            x = _residual(x, normalise, name, [state[f"{name}.conv{number}.weight"] for number in (1, 2)])
        maps.append(x)
        if level + 1 < len(blocks):
            x = F.conv3d(x, state[f"layers.{level}.downsample.weight"], stride=2, padding=1)
    return maps


def _residual(x: Tensor, normalise: Callable[[str, Tensor], Tensor], name: str, kernels: Sequence[Tensor]) -> Tensor:
    """Twice normalise, cut off below zero, convolve; then add what came in."""
    y = x
    for number, kernel in enumerate(kernels, start=1):
        y = F.conv3d(F.relu(normalise(f"{name}.norm{number}", y)), kernel, padding=1)
    return x + y
