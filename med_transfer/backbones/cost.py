"""Computational cost of a backbone per scan, counted without running it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.flop_counter import FlopCounterMode

from med_transfer.backbones.spec import BackboneSpec, Triple
from med_transfer.backbones.weights.skip_initialisation import SkipInitialisation

DEFAULT_SHAPE: Triple = (96, 96, 96)
_NOT_COUNTED = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU)


def cost_shape(spec: BackboneSpec) -> Triple:
    """Return the input shape (depth, height, width) for which the cost is stated: the entry's, or 96 x 96 x 96."""
    return spec.input.shape or DEFAULT_SHAPE


def multiply_adds(spec: BackboneSpec, shape: Triple | None = None) -> float:
    """Return the multiply-adds of convolutions and matrix products in one forward pass of one scan.

    Counted on the meta device, which takes seconds.
    """
    with torch.device("meta"), SkipInitialisation():
        encoder = _only_counted_layers(spec.build().eval())
        x = torch.empty(1, spec.input.channels, *(shape or cost_shape(spec)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(x)
    return counter.get_total_flops() / 2  # FLOPs count multiplication and addition separately


def _only_counted_layers(network: nn.Module) -> nn.Module:
    """Remove normalisations and activations, not counted but the slowest operations on the meta device."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _NOT_COUNTED):
                setattr(module, name, nn.Identity())
    return network
