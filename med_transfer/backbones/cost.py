"""What one scan costs in a network, counted without computing."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from med_transfer.backbones.spec import BackboneSpec, Triple

DEFAULT_SHAPE: Triple = (96, 96, 96)


def cost_shape(spec: BackboneSpec) -> Triple:
    """The voxels [depth, height, width] that the cost is stated for: the entry's own, or 96 x 96 x 96."""
    return spec.input.shape or DEFAULT_SHAPE


def multiply_adds(spec: BackboneSpec, shape: Triple | None = None) -> float:
    """Of convolutions and matrix products in one forward pass of one scan; on the meta device, so within seconds."""
    with torch.device("meta"):
        encoder = _without_normalisation(spec.build().eval())
        x = torch.empty(1, spec.input.channels, *(shape or cost_shape(spec)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(x)
    return counter.get_total_flops() / 2  # an addition and a multiplication count as two


def _without_normalisation(network: nn.Module) -> nn.Module:
    """Batch normalisation counts nothing, and takes longest of all on the meta device."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, nn.Identity())
    return network
