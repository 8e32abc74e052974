"""An independent residual network: names and shapes written out, the forward pass with torch's functions only.

Nothing here comes from med_transfer or MONAI, so that the encoders can be compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """A residual network: its sizes, and what leaves no trace in a file of weights."""

    blocks: Sequence[int]
    bottleneck: bool = False
    projection: bool = True  # a convolution in the shortcut (type B); else strided, with zeros for the new channels (A)
    channels: int = 1
    widths: Sequence[int] = (64, 128, 256, 512)
    stem_kernel: tuple[int, int, int] = (7, 7, 7)
    stem_stride: tuple[int, int, int] = (2, 2, 2)
    pool: tuple[int, int, int] | None = (3, 2, 1)  # kernel, stride, padding
    strides: Sequence[int] = (1, 2, 2, 2)
    dilations: Sequence[int] = (1, 1, 1, 1)
    biased_projection: bool = False


MEDICALNET_BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def medicalnet_plan(depth: int) -> Plan:
    """Tencent's network, from its description: github Tencent/MedicalNet, models/resnet.py."""
    return Plan(
        MEDICALNET_BLOCKS[depth], depth >= 50, depth not in (18, 34), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)
    )


def inflated_plan(blocks: Sequence[int]) -> Plan:
    """I3D ResNet of Merlin and Astra."""
    return Plan(blocks, True, channels=3, stem_kernel=(3, 7, 7), stem_stride=(1, 2, 2))


def video_plan(blocks: Sequence[int] = (2, 2, 2, 2), widths: Sequence[int] = (64, 128, 256, 512)) -> Plan:
    """torchvision's r3d_18, without its classification layer and under the usual names."""
    return Plan(blocks, channels=3, widths=widths, stem_kernel=(3, 7, 7), stem_stride=(1, 2, 2), pool=None)


def nodule_plan(blocks: Sequence[int] = (3, 4), widths: Sequence[int] = (64, 128)) -> Plan:
    """The body of MONAI's lung nodule detector, slices last."""
    return Plan(blocks, True, widths=widths, stem_stride=(2, 2, 1), biased_projection=True)


def names_and_shapes(plan: Plan) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the network, in the order in which PyTorch lists them."""
    given = plan.widths[0]
    yield "conv1.weight", (given, plan.channels, *plan.stem_kernel)
    yield from _norm("bn1", given)
    for stage, (width, blocks) in enumerate(zip(plan.widths, plan.blocks, strict=True), start=1):
        made = width * 4 if plan.bottleneck else width
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for number, (size, into, out) in enumerate(_convolutions(plan, given, width, made), start=1):
                yield f"{name}.conv{number}.weight", (out, into, size, size, size)
                yield from _norm(f"{name}.bn{number}", out)
            if plan.projection and given != made:
                yield f"{name}.downsample.0.weight", (made, given, 1, 1, 1)
                if plan.biased_projection:
                    yield f"{name}.downsample.0.bias", (made,)
                yield from _norm(f"{name}.downsample.1", made)
            given = made


def random_state(plan: Plan, seed: int = 0) -> State:
    """Random weights with which the signal neither dies nor explodes."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in names_and_shapes(plan):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) == 5:
            state[name] = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(("weight", "running_var")):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    return state


def forward(plan: Plan, state: State, x: Tensor) -> list[Tensor]:
    """The map of each stage, with stored statistics in every normalisation."""
    padding = tuple(size // 2 for size in plan.stem_kernel)
    x = F.conv3d(x, state["conv1.weight"], stride=plan.stem_stride, padding=padding)
    x = F.relu(_normalise(state, "bn1", x))
    x = F.max_pool3d(x, *plan.pool) if plan.pool else x
    maps = []
    for stage, blocks in enumerate(plan.blocks, start=1):
        for block in range(blocks):
            stride = plan.strides[stage - 1] if block == 0 else 1
            x = _block(plan, state, f"layer{stage}.{block}", x, stride, plan.dilations[stage - 1])
        maps.append(x)
    return maps


def _block(plan: Plan, state: State, name: str, x: Tensor, stride: int, dilation: int) -> Tensor:
    steps = ((1, 1), (2, stride), (3, 1)) if plan.bottleneck else ((1, stride), (2, 1))
    y = x
    for number, step in steps:
        weight = state[f"{name}.conv{number}.weight"]
        wide = dilation if weight.shape[-1] == 3 else 1
        y = F.conv3d(y, weight, stride=step, dilation=wide, padding=wide * (weight.shape[-1] // 2))
        y = _normalise(state, f"{name}.bn{number}", y)
        y = F.relu(y) if number < len(steps) else y
    return F.relu(y + _shortcut(plan, state, name, x, y, stride))


def _shortcut(plan: Plan, state: State, name: str, x: Tensor, y: Tensor, stride: int) -> Tensor:
    if x.shape == y.shape:
        return x
    if plan.projection:
        x = F.conv3d(x, state[f"{name}.downsample.0.weight"], state.get(f"{name}.downsample.0.bias"), stride=stride)
        return _normalise(state, f"{name}.downsample.1", x)
    kept = F.avg_pool3d(x, kernel_size=1, stride=stride)
    return torch.cat([kept, torch.zeros(kept.shape[0], y.shape[1] - kept.shape[1], *kept.shape[2:])], dim=1)


def _normalise(state: State, name: str, x: Tensor) -> Tensor:
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def _convolutions(plan: Plan, given: int, width: int, made: int) -> tuple[tuple[int, int, int], ...]:
    """Kernel size, channels in, channels out of each convolution of a block."""
    if plan.bottleneck:
        return (1, given, width), (3, width, width), (1, width, made)
    return (3, given, width), (3, width, width)


def _norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()
