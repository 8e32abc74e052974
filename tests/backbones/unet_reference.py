"""Independent U-Nets: names and shapes of the whole network written out, the contracting path with torch's functions.

Nothing here comes from med_transfer, so that the encoders can be compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Named = Iterator[tuple[str, tuple[int, ...]]]
Triple = tuple[int, int, int]


def random_state(named: Iterable[tuple[str, tuple[int, ...]]], seed: int = 0) -> State:
    """Random weights with which the signal neither dies nor explodes."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in named:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) == 5:
            state[name] = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(("weight", "running_var")):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.3
    return state


def _conv(name: str, into: int, out: int, kernel: Triple, bias: bool = True) -> Named:
    yield f"{name}.weight", (out, into, *kernel)
    if bias:
        yield f"{name}.bias", (out,)


def _norm(name: str, channels: int, running: bool = False) -> Named:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)
    if running:
        yield f"{name}.running_mean", (channels,)
        yield f"{name}.running_var", (channels,)
        yield f"{name}.num_batches_tracked", ()


# Models Genesis and SuPreM ------------------------------------------------------------------------------------


def genesis_names(output: bool = True) -> Named:
    """github MrGiovanni/ModelsGenesis, pytorch/unet3d.py; SuPreM leaves the output out."""
    given = 1
    for made in (64, 128, 256, 512):
        yield from _genesis_pair(f"down_tr{made}", given, made // 2, made)
        given = made
    for made in (256, 128, 64):
        yield f"up_tr{made}.up_conv.weight", (2 * made, 2 * made, 2, 2, 2)
        yield f"up_tr{made}.up_conv.bias", (2 * made,)
        yield from _genesis_pair(f"up_tr{made}", 3 * made, made, made)
    if output:
        yield from _conv("out_tr.final_conv", 64, 1, (1, 1, 1))


def _genesis_pair(name: str, given: int, middle: int, made: int) -> Named:
    for number, (into, out) in enumerate(((given, middle), (middle, made))):
        yield from _conv(f"{name}.ops.{number}.conv1", into, out, (3, 3, 3))
        yield from _norm(f"{name}.ops.{number}.bn1", out, running=True)


def genesis_forward(state: State, x: Tensor) -> list[Tensor]:
    """The map of each level before it is pooled; normalised with the batch's statistics, whatever is stored."""
    maps = []
    for level in (64, 128, 256, 512):
        for number in (0, 1):
            name = f"down_tr{level}.ops.{number}"
            x = F.conv3d(x, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"], padding=1)
            stored = state[f"{name}.bn1.running_mean"].clone(), state[f"{name}.bn1.running_var"].clone()
            x = F.batch_norm(x, *stored, state[f"{name}.bn1.weight"], state[f"{name}.bn1.bias"], training=True)
            x = F.relu(x)
        maps.append(x)
        x = F.max_pool3d(x, 2)
    return maps


# STU-Net ------------------------------------------------------------------------------------------------------


def stunet_names(widths: Sequence[int], depth: int, classes: int = 105) -> Named:
    """github uni-medical/STU-Net, STUNet.py."""
    last = len(widths) - 1
    for stage, made in enumerate(widths):
        yield from _stunet_stage(f"conv_blocks_context.{stage}", widths[stage - 1] if stage else 1, made, depth)
    for up in range(last):
        yield from _conv(f"upsample_layers.{up}.conv", widths[last - up], widths[last - 1 - up], (1, 1, 1))
    for up in range(last):
        made = widths[last - 1 - up]
        yield from _stunet_stage(f"conv_blocks_localization.{up}", 2 * made, made, depth)
    for up in range(last):
        yield from _conv(f"seg_outputs.{up}", widths[last - 1 - up], classes, (1, 1, 1))


def _stunet_stage(name: str, given: int, made: int, depth: int) -> Named:
    for block in range(depth):
        into = given if block == 0 else made
        yield from _conv(f"{name}.{block}.conv1", into, made, (3, 3, 3))
        yield from _norm(f"{name}.{block}.norm1", made)
        yield from _conv(f"{name}.{block}.conv2", made, made, (3, 3, 3))
        yield from _norm(f"{name}.{block}.norm2", made)
        if block == 0:
            yield from _conv(f"{name}.{block}.conv3", into, made, (1, 1, 1))


def stunet_forward(state: State, x: Tensor, stages: int, depth: int) -> list[Tensor]:
    """The map of each stage."""
    maps = []
    for stage in range(stages):
        for block in range(depth):
            name = f"conv_blocks_context.{stage}.{block}"
            stride = 2 if stage > 0 and block == 0 else 1
            y = F.conv3d(x, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"], stride=stride, padding=1)
            y = F.leaky_relu(_instance_norm(state, f"{name}.norm1", y), 0.01)
            y = F.conv3d(y, state[f"{name}.conv2.weight"], state[f"{name}.conv2.bias"], padding=1)
            y = _instance_norm(state, f"{name}.norm2", y)
            if block == 0:
                x = F.conv3d(x, state[f"{name}.conv3.weight"], state[f"{name}.conv3.bias"], stride=stride)
            x = F.leaky_relu(x + y, 0.01)
        maps.append(x)
    return maps


def _instance_norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    mean = x.mean((2, 3, 4), keepdim=True)
    spread = (x - mean).square().mean((2, 3, 4), keepdim=True)
    x = (x - mean) / (spread + eps).sqrt()
    return x * state[f"{name}.weight"][:, None, None, None] + state[f"{name}.bias"][:, None, None, None]


# nnU-Net v2 ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NNUNet:
    """A network of nnU-Net v2 (github MIC-DKFZ/dynamic-network-architectures), plain or with a residual encoder."""

    widths: Sequence[int]
    kernels: Sequence[Triple]
    strides: Sequence[Triple]
    repeats: Sequence[int]
    residual: bool = False
    bias: bool = True
    batch_norm: bool = False
    classes: int = 3

    @property
    def stages(self) -> int:
        return len(self.widths)


def nnunet_names(net: NNUNet) -> Named:
    """Every name of the state_dict: most tensors have two, and those of the encoder four."""
    for prefix in ("encoder", "decoder.encoder"):
        yield from _nnunet_encoder(net, prefix)
    for up in range(net.stages - 1):
        deep, made = net.widths[net.stages - 1 - up], net.widths[net.stages - 2 - up]
        yield f"decoder.transpconvs.{up}.weight", (deep, made, *net.strides[net.stages - 1 - up])
        yield f"decoder.transpconvs.{up}.bias", (made,)
        for number, into in enumerate((2 * made, made)):
            kernel = net.kernels[net.stages - 2 - up]
            yield from _unit(net, f"decoder.stages.{up}.convs.{number}", into, made, kernel, net.bias)
        yield from _conv(f"decoder.seg_layers.{up}", made, net.classes, (1, 1, 1))


def _nnunet_encoder(net: NNUNet, prefix: str) -> Named:
    given = 1
    if net.residual:
        yield from _unit(net, f"{prefix}.stem.convs.0", 1, net.widths[0], net.kernels[0], net.bias)
        given = net.widths[0]
    for stage, made in enumerate(net.widths):
        for number in range(net.repeats[stage]):
            stride = net.strides[stage] if number == 0 else (1, 1, 1)
            if not net.residual:
                name = f"{prefix}.stages.{stage}.0.convs.{number}"
                yield from _unit(net, name, given, made, net.kernels[stage], net.bias)
            else:
                name = f"{prefix}.stages.{stage}.blocks.{number}"
                yield from _unit(net, f"{name}.conv1", given, made, net.kernels[stage], net.bias)
                yield from _unit(net, f"{name}.conv2", made, made, net.kernels[stage], net.bias)
                if given != made:
                    yield from _unit(net, f"{name}.skip.{int(stride != (1, 1, 1))}", given, made, (1, 1, 1), bias=False)
            given = made


def _unit(net: NNUNet, name: str, into: int, out: int, kernel: Triple, bias: bool) -> Named:
    yield from _conv(f"{name}.conv", into, out, kernel, bias)
    yield from _norm(f"{name}.norm", out, running=net.batch_norm)
    yield from _conv(f"{name}.all_modules.0", into, out, kernel, bias)
    yield from _norm(f"{name}.all_modules.1", out, running=net.batch_norm)


def share_aliases(state: State) -> State:
    """The second, third and fourth names point to the same tensors, as in the original."""
    for name in state:
        own = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
        own = own.replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")
        state[name] = state[own]
    return state


def nnunet_forward(net: NNUNet, state: State, x: Tensor) -> list[Tensor]:
    """The map of each stage of the encoder."""
    maps = []
    if net.residual:
        x = _compute(net, state, "encoder.stem.convs.0", x, (1, 1, 1))
    for stage in range(net.stages):
        for number in range(net.repeats[stage]):
            stride = net.strides[stage] if number == 0 else (1, 1, 1)
            if not net.residual:
                x = _compute(net, state, f"encoder.stages.{stage}.0.convs.{number}", x, stride)
                continue
            name = f"encoder.stages.{stage}.blocks.{number}"
            y = _compute(net, state, f"{name}.conv1", x, stride)
            y = _compute(net, state, f"{name}.conv2", y, (1, 1, 1), active=False)
            strided = stride != (1, 1, 1)
            x = F.avg_pool3d(x, stride, stride) if strided else x
            if x.shape[1] != y.shape[1]:
                x = _compute(net, state, f"{name}.skip.{int(strided)}", x, (1, 1, 1), active=False)
            x = F.leaky_relu(x + y, 0.01)
        maps.append(x)
    return maps


def _compute(net: NNUNet, state: State, name: str, x: Tensor, stride: Triple, active: bool = True) -> Tensor:
    weight = state[f"{name}.conv.weight"]
    padding = tuple((size - 1) // 2 for size in weight.shape[2:])
    x = F.conv3d(x, weight, state.get(f"{name}.conv.bias"), stride, padding)
    if net.batch_norm:
        parts = (state[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *parts)
    else:
        x = _instance_norm(state, f"{name}.norm", x)
    return F.leaky_relu(x, 0.01) if active else x
