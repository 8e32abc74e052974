"""ACS convolution: 2D kernels applied to axial, coronal and sagittal planes, without new or changed weights.

One third of the output channels use axial, one third coronal, one third sagittal planes: kernels of shape (1, k, k),
(k, 1, k) and (k, k, 1). Which body planes these are depends on the input's orientation; isotropic voxels suit it best.
Source: Yang et al. 2021, Reinventing 2D Convolutions for 3D Images, IEEE JBHI 25:3009, arXiv:1911.10477.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from med_transfer.backbones.networks.inflation import same_padding
from med_transfer.errors import BackboneError

Pads = tuple[int, int]


class AcsConv3d(nn.Module):
    """A 2D convolution applied to [batch, channel, depth, height, width], with the 2D convolution's own weight.

    Each view is equivalent to a k x k x k kernel that is zero outside its middle plane, so that all three give the same
    shape with any stride and padding. If the channels are not divisible by three, the first views get the remainder.
    Groups are not split: they are divided among the views like channels (in a depthwise convolution they are the
    channels).

    Args:
        conv: convolution with a square kernel; its weight and bias become this module's.
        flat: use stride 1 along depth.
        same: pad like TensorFlow's SAME instead of by the padding of ``conv``.

    Raises:
        BackboneError: the kernel is not square, or the padding is not with zeros.
    """

    def __init__(self, conv: nn.Conv2d, *, flat: bool = False, same: bool = False) -> None:
        super().__init__()
        if len({*conv.kernel_size}) > 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise BackboneError(f"{conv} from three sides", expected="a square kernel and a padding of zeros")
        self.weight, self.bias = conv.weight, conv.bias
        self.size, self.dilation, self.groups = conv.kernel_size[0], conv.dilation[0], conv.groups
        self.stride = (1 if flat else conv.stride[0], *conv.stride)
        self.padding = None if same else (conv.padding[0], *conv.padding)

    def extra_repr(self) -> str:
        """Return kernel, stride and padding for ``repr``."""
        return f"{tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding or 'same'}"

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [batch, channel, depth, height, width]; output channels in the order axial, coronal, sagittal."""
        pads = self._pads(x)
        if self.size == 1:  # all three views are equal
            return _convolve(x, self.weight.unsqueeze(2), self.bias, self.stride, pads, self.dilation, self.groups)
        counts = (self.weight.shape[0], x.shape[1], self.groups)
        views = zip(range(3), *map(self._split, counts), strict=True)
        return torch.cat([self._view(x, pads, *view) for view in views if view[1].stop > view[1].start], dim=1)

    def _view(self, x: Tensor, pads: list[Pads], thin: int, made: slice, given: slice, groups: slice) -> Tensor:
        """The output channels ``made``, with a kernel one voxel thick along axis ``thin``."""
        middle = (self.size - 1) // 2
        before, behind = pads[thin]
        reach = (before - middle * self.dilation, behind - (self.size - 1 - middle) * self.dilation)
        pads = [reach if axis == thin else pad for axis, pad in enumerate(pads)]
        bias = None if self.bias is None else self.bias[made]
        x, number = (x, 1) if self.groups == 1 else (x[:, given], groups.stop - groups.start)
        return _convolve(x, self.weight[made].unsqueeze(2 + thin), bias, self.stride, pads, self.dilation, number)

    def _split(self, count: int) -> list[slice]:
        """Divide channels among the three views by whole groups; the first views get the remainder."""
        units = self.groups if self.groups > 1 else count
        width = count // units
        sizes = [(units // 3 + (view < units % 3)) * width for view in range(3)]
        return [slice(sum(sizes[:view]), sum(sizes[: view + 1])) for view in range(3)]

    def _pads(self, x: Tensor) -> list[Pads]:
        if self.padding is not None:
            return [(pad, pad) for pad in self.padding]
        return [
            same_padding(size, self.size, stride, self.dilation)
            for size, stride in zip(x.shape[2:], self.stride, strict=True)
        ]


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple, pads: list[Pads], dilation: int, groups: int
) -> Tensor:
    """conv3d with asymmetric padding; negative padding crops voxels."""
    if all(before == behind >= 0 for before, behind in pads):
        return F.conv3d(x, weight, bias, stride, [before for before, _ in pads], dilation, groups)
    x = F.pad(x, [amount for pair in reversed(pads) for amount in pair])
    return F.conv3d(x, weight, bias, stride, 0, dilation, groups)
