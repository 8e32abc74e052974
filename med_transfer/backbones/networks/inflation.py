"""Convert a module tree of 2D convolutions, normalisations and poolings to 3D, keeping tensor names.

Along the new axis, depth, a layer behaves as along height: stride, dilation and padding are kept. There are two
exceptions, because slices lie further apart than pixels: a kernel is at most three slices deep, as in I3D's stem, and a
*flat* part neither strides nor pools along depth. Kernels that tile the image without overlap (``kernel == stride``)
keep their full depth, so that no slice is skipped.

Source: Carreira & Zisserman 2017, arXiv:1705.07750 (inflation); centre initialisation: Feichtenhofer et al. 2016,
arXiv:1611.02155.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from med_transfer.errors import BackboneError

DEEPEST_KERNEL = 3

Kernel = Literal["centre", "mean"]
Triple = tuple[int, int, int]


class Convolution(Protocol):
    """Converts a 2D convolution to a 3D layer; ``same`` pads like TensorFlow, regardless of the layer's padding."""

    def __call__(self, conv: nn.Conv2d, *, flat: bool, same: bool = False) -> nn.Module:
        """Return the 3D layer; with ``flat`` it has stride 1 along depth."""
        ...


Rule = Callable[..., nn.Module]  # (2D module, ToVolume) -> 3D module


@dataclass(frozen=True)
class ToVolume:
    """Converts 2D modules to 3D, in place for modules that only contain others.

    The forward pass of a module that contains others is assumed to work in any dimension, as that of a residual block
    does; otherwise add a rule for its type.

    Attributes:
        convolution: converts a convolution.
        flat: neither stride nor pool along depth.
        rules: rules for further types, by exact type.
    """

    convolution: Convolution
    flat: bool = False
    rules: Mapping[type, Rule] = field(default_factory=dict)

    def __call__(self, module: nn.Module) -> nn.Module:
        """Return the 3D module. Raises BackboneError for a layer that no rule covers."""
        if rule := self.rules.get(type(module)) or _RULES.get(type(module)):
            return rule(module, self)
        own_tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if type(module) not in _ANY_DIMENSION and (own_tensors or not any(module.children())):
            raise BackboneError(
                f"layer {type(module).__name__} cannot be made 3D",
                expected="convolutions, BatchNorm and poolings",
                action="Use the backbone slice by slice (slices-...)",
            )
        for name, child in module.named_children():
            setattr(module, name, self(child))
        return module


def inflate_kernel(weight: Tensor, depth: int, kernel: Kernel = "centre") -> Tensor:
    """Inflate a kernel [out, in, height, width] to [out, in, depth, height, width].

    With ``centre`` only the middle slice is non-zero: each slice of a volume gives the 2D network's output for that
    slice, until a pooling or squeeze-and-excitation mixes slices. With ``mean`` the kernel is spread evenly, and this
    holds for a volume of equal slices, away from its ends.
    """
    if kernel == "mean":
        return weight.unsqueeze(2).expand(-1, -1, depth, -1, -1) / depth
    inflated = weight.new_zeros(*weight.shape[:2], depth, *weight.shape[2:])
    inflated[:, :, (depth - 1) // 2] = weight
    return inflated


def inflate_convolution(conv: nn.Conv2d, *, flat: bool, same: bool = False, kernel: Kernel = "centre") -> nn.Conv3d:
    """Return the 3D convolution of a 2D one, with the same groups, bias and padding mode."""
    size, stride, padding = _along_depth(conv, flat)
    padding = conv.padding if isinstance(conv.padding, str) else (padding, *conv.padding)
    inflated: nn.Conv3d = skip_init(  # type: ignore[assignment]  # its values are set below
        SameConv3d if same else nn.Conv3d,
        conv.in_channels,
        conv.out_channels,
        (size, *conv.kernel_size),
        (stride, *conv.stride),
        padding,
        (conv.dilation[0], *conv.dilation),
        conv.groups,
        conv.bias is not None,
        conv.padding_mode,
        device=conv.weight.device,
    )
    with torch.no_grad():
        inflated.weight.copy_(inflate_kernel(conv.weight, size, kernel))
        if conv.bias is not None and inflated.bias is not None:
            inflated.bias.copy_(conv.bias)
    return inflated


def _along_depth(conv: nn.Conv2d, flat: bool) -> Triple:
    """Kernel size, stride and padding along depth."""
    size, stride = conv.kernel_size[0], conv.stride[0]
    padding = 0 if isinstance(conv.padding, str) else conv.padding[0]
    if size == stride:  # non-overlapping tiles, or a single pixel
        return (1, 1, 0) if flat else (size, stride, padding)
    depth = min(size, DEEPEST_KERNEL) if size % 2 else size
    return depth, 1 if flat else stride, max(0, padding - conv.dilation[0] * (size - depth) // 2)


class SameConv3d(nn.Conv3d):
    """3D convolution padded like TensorFlow's SAME: ceil(size / stride) voxels, with extra padding at the end."""

    def forward(self, input: Tensor) -> Tensor:
        """Return [batch, channel, depth, height, width], each axis divided by its stride and rounded up."""
        pads = [
            same_padding(*axis)
            for axis in zip(input.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        ]
        flat_pads = [amount for pair in reversed(pads) for amount in pair]
        return F.conv3d(F.pad(input, flat_pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the number of voxels of SAME padding before and after an axis."""
    total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


# Rules by type ------------------------------------------------------------------------------------------------


def _convolution(conv: nn.Conv2d, to: ToVolume) -> nn.Module:
    return to.convolution(conv, flat=to.flat)


def _normalisation(norm: nn.BatchNorm2d, to: ToVolume) -> nn.Module:
    inflated = nn.BatchNorm3d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    inflated.load_state_dict(norm.state_dict())
    return inflated


def _max_pool(pool: nn.MaxPool2d, to: ToVolume) -> nn.Module:
    size, stride, padding, dilation = (_pair(v) for v in (pool.kernel_size, pool.stride, pool.padding, pool.dilation))
    depth = (1, 1, 0, 1) if to.flat else (size[0], stride[0], padding[0], dilation[0])
    axes = [(along, *pair) for along, pair in zip(depth, (size, stride, padding, dilation), strict=True)]
    return nn.MaxPool3d(*axes, pool.return_indices, pool.ceil_mode)  # type: ignore[arg-type]


def _average_pool(pool: nn.AvgPool2d, to: ToVolume) -> nn.Module:
    """Average pooling without padding along depth, whose zeros would darken the outer slices."""
    size, stride, padding = (_pair(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    depth = 1 if to.flat else stride[0]
    return nn.AvgPool3d((depth, *size), (depth, *stride), (0, *padding), pool.ceil_mode, pool.count_include_pad)


def _adaptive_pool(pool: nn.AdaptiveAvgPool2d, to: ToVolume) -> nn.Module:
    """Adaptive pooling to one voxel, or to the given height and width with the depth unchanged."""
    size = _pair(pool.output_size)  # type: ignore[arg-type]
    return nn.AdaptiveAvgPool3d((1 if size == (1, 1) else None, *size))  # type: ignore[arg-type]


def _pair(value: int | tuple[int, int] | None) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)  # type: ignore[return-value]


_RULES: dict[type, Rule] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _normalisation,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
}
_ANY_DIMENSION = {
    *(nn.Identity, nn.Dropout, nn.GroupNorm, nn.Flatten, nn.Sequential),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid),
}
