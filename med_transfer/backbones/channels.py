"""Adapt a backbone to several input channels (phases, sequences) by inflating its first convolution.

The single-channel kernel is repeated along the channels and divided by their number, so that n equal channels give
exactly the response of one, and later layers see the responses they were trained on. This is inflation (Carreira &
Zisserman 2017, arXiv:1705.07750, there along time) along channels. From several channels to another number, kernels are
summed first, which for equal channels also leaves the response unchanged.

A network that turns each channel into three colours orders them by colour: colour r of channel i of n is r * n + i. It
takes three windows of one scan as red, green and blue, with its first convolution as published.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from med_transfer.backbones.encoder import Encoder
from med_transfer.backbones.networks.planar import PlanarEncoder
from med_transfer.backbones.spec import BackboneSpec, Builder
from med_transfer.errors.given_numbers import whole_number

Channels = int | Literal["windows"]  # number of channels, or three windows of one scan
MAX_CHANNELS = 1024  # of a first convolution that fits into memory


def with_channels(spec: BackboneSpec, channels: Channels) -> BackboneSpec:
    """Return the entry with a network for ``channels`` channels, into which weights of any channel number load.

    Raises:
        UsageError: the number is no whole number from 1 to ``MAX_CHANNELS``.
    """
    if channels == "windows" and spec.takes_colours:
        return _coloured_entry(spec)
    channels = 3 if channels == "windows" else whole_number(channels, "channels", 1, MAX_CHANNELS)
    if channels == spec.input.channels:
        return spec
    return _widened_entry(spec, channels)


@lru_cache(maxsize=32)  # the network is built to count its parameters
def _coloured_entry(spec: BackboneSpec) -> BackboneSpec:
    entry = spec.built_by(coloured(spec.build))
    return replace(entry, input=replace(spec.input, channels=3), as_colours=True)


@lru_cache(maxsize=32)
def _widened_entry(spec: BackboneSpec, channels: int) -> BackboneSpec:
    return replace(spec.built_by(widened(spec.build, channels)), input=replace(spec.input, channels=channels))


def widened(build: Builder, channels: int) -> Builder:
    """Return a builder of the same network for this many channels, with a random first convolution."""
    return partial(_build_wide, build, channels) if channels > 1 else build


def coloured(build: Builder) -> Builder:
    """Return a builder of the same photograph network for three channels that are red, green and blue."""
    return partial(_build_coloured, build)


def fit_channels(encoder: Encoder, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Convert the first convolution of a weights file to the encoder's number of channels.

    Args:
        encoder: the encoder that the tensors are for.
        tensors: tensors by the encoder's names. They are unchanged if the number of channels is the same, or not a
            multiple of the network's colours.

    Returns:
        The tensors, and a sentence on what was done; empty if nothing.
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
    """Kernel [out, colours * given, ...] to [out, colours * channels, ...]: sum over given, divide among channels."""
    single = kernel.unflatten(1, (colours, -1)).sum(2)
    return single.repeat_interleave(channels, dim=1) / channels


def _build_coloured(build: Builder) -> Encoder:
    encoder = cast(PlanarEncoder, build())
    encoder.photograph.coloured = True  # kernels stay those of one channel in three colours
    return encoder


def _build_wide(build: Builder, channels: int) -> Encoder:
    """Give each channel random kernels, scaled so that all together respond as strongly as one did."""
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
    """Return the convolutions that read the input: the first of the stem, and a parallel shortcut if there is one."""
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
    """The weight of a convolution [out, in, *space]; a 0-d tensor for a module without weight."""
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else torch.empty(())
