"""2D kernels in three planes, against an independent dense kernel and the plain 2D convolution in each plane."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from med_transfer.backbones.networks.acs import AcsConv3d
from med_transfer.errors import BackboneError

OPTIONS = {
    "plain": {"in_channels": 4, "out_channels": 9, "kernel_size": 3, "padding": 1},
    "a rest of two": {"in_channels": 4, "out_channels": 8, "kernel_size": 3, "padding": 1, "bias": False},
    "strided": {"in_channels": 3, "out_channels": 7, "kernel_size": 7, "stride": 2, "padding": 3},
    "dilated": {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "padding": 2, "dilation": 2},
    "tiles": {"in_channels": 3, "out_channels": 6, "kernel_size": 4, "stride": 4},
    "unpadded": {"in_channels": 3, "out_channels": 6, "kernel_size": 3},
    "point": {"in_channels": 3, "out_channels": 5, "kernel_size": 1, "stride": 2},
    "depthwise": {"in_channels": 8, "out_channels": 8, "kernel_size": 5, "padding": 2, "stride": 2, "groups": 8},
    "widening depthwise": {"in_channels": 4, "out_channels": 8, "kernel_size": 3, "padding": 1, "groups": 4},
    "two groups": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 2},
    "one channel": {"in_channels": 4, "out_channels": 1, "kernel_size": 3, "padding": 1},
}


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def views(conv):
    """Which side each output channel looks from, 0 axial, 1 coronal, 2 sagittal, as the paper divides them."""
    units = conv.groups if conv.groups > 1 else conv.out_channels
    share, rest = divmod(units, 3)
    sides = [side for side in range(3) for _ in range(share + (side < rest))]
    return [side for side in sides for _ in range(conv.out_channels // units)]


def dense(conv, stride=None, padding=None):
    """The same as one dense 3D kernel, zero outside the middle plane of each channel's side."""
    size = conv.kernel_size[0]
    weight = torch.zeros(conv.out_channels, conv.in_channels // conv.groups, size, size, size)
    for channel, side in enumerate(views(conv)):
        weight[channel].select(1 + side, (size - 1) // 2).copy_(conv.weight[channel])
    options = {"dilation": conv.dilation[0], "groups": conv.groups}
    return lambda x: F.conv3d(
        x,
        weight,
        conv.bias,
        conv.stride[0] if stride is None else stride,
        conv.padding[0] if padding is None else padding,
        **options,
    )


@pytest.mark.parametrize("shape", [(16, 16, 16), (13, 15, 18)], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
@torch.no_grad()
def test_equals_a_dense_kernel(options, shape):
    conv = nn.Conv2d(**options)
    x = randn(2, conv.in_channels, *shape)
    torch.testing.assert_close(AcsConv3d(conv)(x), dense(conv)(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_flat_keeps_the_depth():
    conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
    x = randn(1, 3, 7, 12, 12)
    torch.testing.assert_close(AcsConv3d(conv, flat=True)(x), dense(conv, stride=(1, 2, 2))(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [12, 13])
@torch.no_grad()
def test_padding_as_in_tensorflow(size):
    conv = nn.Conv2d(6, 6, 3, stride=2, groups=6)
    x = randn(1, 6, size, size, size)
    before = 0 if size % 2 == 0 else 1  # with 13 voxels a stride of 2 needs one more voxel of padding
    padded = F.pad(x, (before, 1) * 3)
    torch.testing.assert_close(AcsConv3d(conv, same=True)(x), dense(conv, padding=0)(padded), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_third_is_the_2d_convolution_in_its_planes():
    conv = nn.Conv2d(3, 9, 3, padding=1)
    x = randn(2, 3, 6, 7, 8)
    y = AcsConv3d(conv)(x)
    for index in range(6):
        torch.testing.assert_close(y[:, 0:3, index], conv(x[:, :, index])[:, 0:3], rtol=1e-4, atol=1e-5)
        coronal, sagittal = conv(x[:, :, :, index]), conv(x[:, :, :, :, index])
        torch.testing.assert_close(y[:, 3:6, :, index], coronal[:, 3:6], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(y[:, 6:9, :, :, index], sagittal[:, 6:9], rtol=1e-4, atol=1e-5)


def test_weights_are_the_2d_ones_and_learn():
    conv = nn.Conv2d(3, 5, 3, padding=1)
    acs = AcsConv3d(conv)
    assert dict(acs.named_parameters()) == dict(conv.named_parameters())
    acs(randn(1, 3, 4, 4, 4)).square().sum().backward()
    assert (conv.weight.grad.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": (1, 7)}, {"kernel_size": 3, "padding_mode": "reflect"}, {"kernel_size": 3, "padding": "same"}],
)
def test_other_convolutions_are_refused(options):
    with pytest.raises(
        BackboneError, match=r"Conv2d.* from three sides; expected a square kernel and a padding of zeros"
    ):
        AcsConv3d(nn.Conv2d(3, 3, **options))
