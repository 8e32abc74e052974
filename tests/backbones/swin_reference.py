"""An independent Swin transformer in 3D: names and shapes written out, forward with torch's functions alone.

As the published weights were trained: with the patch merging that MONAI had before 1.5.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Named = Iterator[tuple[str, tuple[int, ...]]]
HEADS = (3, 6, 12, 24)
WINDOW = 7
# Which voxel of a 2x2x2 block comes in which eighth of the channels; 010 and 001 twice, 110 and 011 never
MERGED = ("000", "100", "010", "001", "101", "010", "001", "111")


def swin_transformer(first: int, residual: bool = False, depth: int = 2) -> Named:
    yield from (("patch_embed.proj.weight", (first, 1, 2, 2, 2)), ("patch_embed.proj.bias", (first,)))
    for level, heads in enumerate(HEADS, start=1):
        channels = first * 2 ** (level - 1)
        for block in range(depth):
            yield from _block(f"layers{level}.0.blocks.{block}", channels, heads)
        yield f"layers{level}.0.downsample.reduction.weight", (2 * channels, 8 * channels)
        yield f"layers{level}.0.downsample.norm.weight", (8 * channels,)
        yield f"layers{level}.0.downsample.norm.bias", (8 * channels,)
        for number in (1, 2) if residual else ():
            yield f"layers{level}c.0.layer.conv{number}.conv.weight", (channels, channels, 3, 3, 3)


def _block(name: str, channels: int, heads: int) -> Named:
    tokens = WINDOW**3
    for norm in ("norm1", "norm2"):
        yield from ((f"{name}.{norm}.weight", (channels,)), (f"{name}.{norm}.bias", (channels,)))
    yield f"{name}.attn.relative_position_bias_table", ((2 * WINDOW - 1) ** 3, heads)
    yield f"{name}.attn.relative_position_index", (tokens, tokens)
    for layer, given, made in (
        ("attn.qkv", channels, 3 * channels),
        ("attn.proj", channels, channels),
        ("mlp.linear1", channels, 4 * channels),
        ("mlp.linear2", 4 * channels, channels),
    ):
        yield from ((f"{name}.{layer}.weight", (made, given)), (f"{name}.{layer}.bias", (made,)))


def unetr_convolutions(first: int, classes: int, decoder: bool = True) -> Named:
    """Swin UNETR's convolutions beside and after the transformer."""
    for number, channels in ((1, first), (2, first), (3, 2 * first), (4, 4 * first), (10, 16 * first)):
        given = 1 if number == 1 else channels
        yield f"encoder{number}.layer.conv1.conv.weight", (channels, given, 3, 3, 3)
        yield f"encoder{number}.layer.conv2.conv.weight", (channels, channels, 3, 3, 3)
    yield "encoder1.layer.conv3.conv.weight", (first, 1, 1, 1, 1)
    if not decoder:
        return
    for number, channels in ((5, 8 * first), (4, 4 * first), (3, 2 * first), (2, first), (1, first)):
        given = channels if number == 1 else 2 * channels
        yield f"decoder{number}.transp_conv.conv.weight", (given, channels, 2, 2, 2)
        yield f"decoder{number}.conv_block.conv1.conv.weight", (channels, 2 * channels, 3, 3, 3)
        yield f"decoder{number}.conv_block.conv2.conv.weight", (channels, channels, 3, 3, 3)
        yield f"decoder{number}.conv_block.conv3.conv.weight", (channels, 2 * channels, 1, 1, 1)
    yield from (("out.conv.conv.weight", (classes, first, 1, 1, 1)), ("out.conv.conv.bias", (classes,)))


def position_index() -> Tensor:
    """Row of the bias table for each pair of voxels of a 7x7x7 window: their offset, counted in base 13."""
    voxels = torch.tensor(list(itertools.product(range(WINDOW), repeat=3)))
    offset = voxels[:, None] - voxels[None, :] + WINDOW - 1
    span = 2 * WINDOW - 1
    return offset[..., 0] * span * span + offset[..., 1] * span + offset[..., 2]


def swin_forward(state: State, x: Tensor, depth: int = 2) -> list[Tensor]:
    """The embedded patches and what each of the four levels gives, each normalised over its channels."""
    x = F.conv3d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=2)
    maps = [x]
    for level, heads in enumerate(HEADS, start=1):
        x = _convolved(state, f"layers{level}c.0", x)
        x = x.permute(0, 2, 3, 4, 1)
        for block in range(depth):
            name = f"layers{level}.0.blocks.{block}"
            x = x + _attention(state, name, _layer_norm(state, f"{name}.norm1", x), heads, shifted=block % 2 == 1)
            inner = F.gelu(_linear(state, f"{name}.mlp.linear1", _layer_norm(state, f"{name}.norm2", x)))
            x = x + _linear(state, f"{name}.mlp.linear2", inner)
        x = _merged(state, f"layers{level}.0.downsample", x).permute(0, 4, 1, 2, 3)
        maps.append(x)
    return [(m - m.mean(1, keepdim=True)) / (m.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt() for m in maps]


def _convolved(state: State, name: str, x: Tensor) -> Tensor:
    """The residual block of version 2, where the network has one."""
    if f"{name}.layer.conv1.conv.weight" not in state:
        return x
    y = F.leaky_relu(F.instance_norm(F.conv3d(x, state[f"{name}.layer.conv1.conv.weight"], padding=1)), 0.01)
    y = F.instance_norm(F.conv3d(y, state[f"{name}.layer.conv2.conv.weight"], padding=1))
    return F.leaky_relu(x + y, 0.01)


def _attention(state: State, name: str, x: Tensor, heads: int, shifted: bool) -> Tensor:
    """Attention within windows of at most 7 voxels a side, each voxel only to those of its own region."""
    given = x.shape
    size = [min(WINDOW, n) for n in given[1:4]]
    shift = [WINDOW // 2 if shifted and n > WINDOW else 0 for n in given[1:4]]
    for axis, (n, window) in enumerate(zip(given[1:4], size, strict=True), start=1):
        padding = [0] * (2 * (x.ndim - axis))
        padding[-1] = -n % window
        x = F.pad(x, padding)
    padded = x.shape
    regions = _regions(padded[1:4], size, shift)
    x = torch.roll(x, [-step for step in shift], (1, 2, 3))
    x, regions = _windows(x, size), _windows(regions, size)[..., 0]
    regions = regions.repeat(given[0], 1)
    y = _attend(state, name, x, heads, allowed=regions[:, None, :] == regions[:, :, None])
    y = _whole(y, size, padded)
    y = torch.roll(y, shift, (1, 2, 3))
    return y[:, : given[1], : given[2], : given[3]]


def _attend(state: State, name: str, x: Tensor, heads: int, allowed: Tensor) -> Tensor:
    windows, tokens, channels = x.shape
    query, key, value = (
        part.reshape(windows, tokens, heads, channels // heads).transpose(1, 2)
        for part in _linear(state, f"{name}.attn.qkv", x).chunk(3, dim=-1)
    )
    rows = position_index()[:tokens, :tokens]
    bias = state[f"{name}.attn.relative_position_bias_table"][rows].permute(2, 0, 1)
    score = query @ key.transpose(-1, -2) / (channels // heads) ** 0.5 + bias
    score = score - 100.0 * (~allowed)[:, None]
    y = (score.softmax(dim=-1) @ value).transpose(1, 2).reshape(windows, tokens, channels)
    return _linear(state, f"{name}.attn.proj", y)


def _regions(shape, size, shift) -> Tensor:
    """[1, depth, height, width, 1]: a number for each part of the rolled volume that belongs together."""
    labels = torch.zeros(1, *shape, 1)
    for axis, (n, window, step) in enumerate(zip(shape, size, shift, strict=True), start=1):
        place = torch.arange(n)
        part = (place >= n - window).long() + (place >= n - step).long() if step else torch.zeros(n, dtype=torch.long)
        labels = labels * 3 + part.view([-1 if a == axis else 1 for a in range(5)])
    return labels


def _windows(x: Tensor, size) -> Tensor:
    """[batch, depth, height, width, channel] to [window, voxel, channel]."""
    for axis, window in enumerate(size):
        x = x.unflatten(1 + 2 * axis, (-1, window))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)


def _whole(x: Tensor, size, shape) -> Tensor:
    counts = [n // window for n, window in zip(shape[1:4], size, strict=True)]
    return x.reshape(shape[0], *counts, *size, shape[-1]).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


def _merged(state: State, name: str, x: Tensor) -> Tensor:
    blocks = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    batch, depth, height, width, channels = blocks.shape
    blocks = blocks.reshape(batch, depth // 2, 2, height // 2, 2, width // 2, 2, channels)
    eighths = [blocks[:, :, int(i), :, int(j), :, int(k)] for i, j, k in MERGED]
    return F.linear(_layer_norm(state, f"{name}.norm", torch.cat(eighths, -1)), state[f"{name}.reduction.weight"])


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])
