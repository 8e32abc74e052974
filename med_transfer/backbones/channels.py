"""A backbone for several channels (phases, sequences) in the place of one: its first convolution is inflated.

The kernel of the one channel is repeated along the channels and divided by their number, so that n equal channels give
exactly what one gave, and every later layer starts from responses that it knows: the idea of inflation (Carreira &
Zisserman 2017, arXiv:1705.07750, there along time), along channels. The other way, from several channels to one or to
another number, kernels are summed first, which equal channels do not notice either.

A network that makes three colours of each channel has them side by side: colour r of channel i of n is r * n + i. Three
windows of one scan it takes as its red, green and blue, and its first convolution stays as it was published.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.networks.planar import PlanarEncoder
from med_transfer.backbones.spec import BackboneSpec, Builder

Channels = int | Literal["windows"]  # how many; or three windows of one scan


def with_channels(spec: BackboneSpec, channels: Channels) -> BackboneSpec:
    """The entry with a network for ``channels`` channels; weights of any number load into it."""
    if channels == "windows" and spec.takes_colours:
        entry = spec.built_by(coloured(spec.build))
        return replace(entry, input=replace(spec.input, channels=3), as_colours=True)
    channels = 3 if channels == "windows" else channels
    if channels == spec.input.channels:
        return spec
    return replace(spec.built_by(widened(spec.build, channels)), input=replace(spec.input, channels=channels))


def widened(build: Builder, channels: int) -> Builder:
    """What builds the same network for so many channels, with random values."""
    return partial(_build_wide, build, channels) if channels > 1 else build


def coloured(build: Builder) -> Builder:
    """What builds the same network of photographs, for three channels that are its red, green and blue."""
    return partial(_build_coloured, build)


def fit_channels(encoder: Encoder, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file with its first convolution brought to the encoder's channels, and what was done, in words.

    Args:
        encoder: tells its channels.
        tensors: by the encoder's names; left as they are where the number of channels is the same, or no multiple of
            the network's colours.
    """
    fitted, sentence = dict(tensors), ""
    for name, convolution in input_convolutions(encoder).items():
        kernel, own = tensors.get(f"{name}.weight"), _kernel(convolution)
        colours = own.shape[1] // encoder.channels
        if kernel is None or kernel.ndim != own.ndim or kernel.shape[1] == own.shape[1] or kernel.shape[1] % colours:
            continue
        given = kernel.shape[1] // colours
        fitted[f"{name}.weight"] = _spread(kernel, colours, encoder.channels)
        sentence = f"First convolution: from {given} channel(s) of the file to {encoder.channels}."
    return fitted, sentence


def _spread(kernel: Tensor, colours: int, channels: int) -> Tensor:
    """[out, colours * given, ...] to [out, colours * channels, ...]: summed over the given, divided among these."""
    single = kernel.unflatten(1, (colours, -1)).sum(2)
    return single.repeat_interleave(channels, dim=1) / channels


def _build_coloured(build: Builder) -> Encoder:
    encoder = cast(PlanarEncoder, build())
    encoder.photograph.coloured = True  # its kernels stay those of one channel, in three colours
    return encoder


def _build_wide(build: Builder, channels: int) -> Encoder:
    """Each channel gets random kernels of its own, and all together respond as strongly as one did."""
    encoder = build()
    for convolution in input_convolutions(encoder).values():
        kernel = _kernel(convolution).detach()
        wide = torch.randn_like(kernel.repeat_interleave(channels, dim=1)) * (kernel.std() / math.sqrt(channels))
        convolution.register_parameter("weight", nn.Parameter(wide))
        if isinstance(convolution, nn.Conv2d | nn.Conv3d):
            convolution.in_channels = wide.shape[1]
    encoder.channels = channels
    return encoder


def input_convolutions(encoder: Encoder) -> dict[str, nn.Module]:
    """The convolutions that read the input: the stem's first, and a shortcut beside it where there is one."""
    stem = {id(module) for module in encoder.stages()[0].modules()}
    convolutions = {
        name: module for name, module in encoder.named_modules() if id(module) in stem and _kernel(module).ndim >= 4
    }
    given = _kernel(next(iter(convolutions.values()))).shape[1]
    return {
        name: module
        for name, module in convolutions.items()
        if _kernel(module).shape[1] == given and getattr(module, "groups", 1) == 1
    }


def _kernel(module: nn.Module) -> Tensor:
    """The weight, [out, in, *space] of a convolution; without dimensions where there is none."""
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else torch.empty(())
