"""Any 2D network as a 3D one: the output for each slice, the strided axes, and what is refused."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from med_transfer.backbones.networks.inflation import SameConv3d, ToVolume, inflate_convolution, inflate_kernel
from med_transfer.errors import BackboneError


def inflate(network, kernel="centre", *, flat=False):
    return ToVolume(partial(inflate_convolution, kernel=kernel), flat)(copy.deepcopy(network))


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """A residual block of a kind of its own, with a depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.wide, self.norm = nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8), nn.BatchNorm2d(8)
        self.point, self.act = nn.Conv2d(8, 8, 1), nn.SiLU()

    def forward(self, x):
        return x + self.act(self.point(self.norm(self.wide(x))))


def network(*pools):
    torch.manual_seed(3)
    parts = [nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *pools, Block()]
    net = nn.Sequential(*parts, nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2)).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
    return net


def equal_slices(x, depth):
    return x[:, :, None].expand(-1, -1, depth, -1, -1)


POOLS = [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 2, padding=1), nn.MaxPool2d(2, ceil_mode=True)]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("flat", [True, False])
@torch.no_grad()
def test_centre_inflation_of_equal_slices_is_the_2d_network_on_every_slice(pool, flat):
    net, x = network(pool), randn(2, 3, 36, 44)
    planar, volume = net(x), inflate(net, flat=flat).eval()(equal_slices(x, 16))
    assert volume.shape[2] == (16 if flat else 2)
    for index in range(volume.shape[2]):
        torch.testing.assert_close(volume[:, :, index], planar, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_centre_inflation_gives_each_slice_its_own_2d_features():
    net, x = network(), randn(2, 3, 8, 36, 44)
    flat, strided = inflate(net, flat=True).eval()(x), inflate(net).eval()(x)
    for index in range(8):
        torch.testing.assert_close(flat[:, :, index], net(x[:, :, index]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(strided, flat[:, :, ::4])


@torch.no_grad()
def test_mean_inflation_of_equal_slices_is_the_2d_network_away_from_the_ends():
    net, x = network(nn.MaxPool2d(3, 2, 1)), randn(1, 3, 36, 44)
    planar, volume = net(x), inflate(net, "mean", flat=True).eval()(equal_slices(x, 16))
    reach = 1 + 2 + 1  # half the depth of the first, the dilated and the last kernel
    for index in range(16):
        close = torch.allclose(volume[:, :, index], planar, rtol=1e-4, atol=1e-5)
        assert close == (reach <= index < 16 - reach)


@torch.no_grad()
def test_mean_inflation_averages_neighbouring_slices():
    conv, x = nn.Conv2d(2, 4, 3, padding=1), randn(1, 2, 5, 9, 9)
    inside = F.conv2d(x[:, :, 1:4].mean(2), conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(inflate(conv, "mean")(x)[:, :, 2], inside, rtol=1e-4, atol=1e-5)


CONVOLUTIONS = {
    "plain": ({"kernel_size": 3, "padding": 1}, (3, 1, 1)),
    "at most three slices deep": ({"kernel_size": 7, "stride": 2, "padding": 3}, (3, 2, 1)),
    "dilated": ({"kernel_size": 5, "padding": 8, "dilation": 4}, (3, 1, 4)),
    "strided point": ({"kernel_size": 1, "stride": 2}, (1, 2, 0)),
    "tiles": ({"kernel_size": 4, "stride": 4}, (4, 4, 0)),
    "depthwise": ({"kernel_size": 5, "stride": 2, "padding": 2, "groups": 8, "bias": False}, (3, 2, 1)),
}


@pytest.mark.parametrize(("options", "depth"), CONVOLUTIONS.values(), ids=list(CONVOLUTIONS))
@torch.no_grad()
def test_convolution_along_depth(options, depth):
    conv, x = nn.Conv2d(8, 16, **options), randn(1, 8, 9, 24, 24)
    size, stride, padding = depth
    inflated = inflate_convolution(conv, flat=False)
    assert (inflated.kernel_size[0], inflated.stride[0], inflated.padding[0]) == depth
    assert (inflated.groups, inflated.dilation[1:]) == (conv.groups, conv.dilation)
    assert (inflated.kernel_size[1:], inflated.padding[1:]) == (conv.kernel_size, conv.padding)
    y, middle = inflated(x), (size - 1) // 2
    for index in range(y.shape[2]):
        seen = index * stride - padding + middle * conv.dilation[0]
        torch.testing.assert_close(y[:, :, index], conv(x[:, :, seen]), rtol=1e-4, atol=1e-5)
    flat = inflate_convolution(conv, flat=True)(x)
    for index in range(9):
        torch.testing.assert_close(flat[:, :, index], conv(x[:, :, index]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 16, 16), (7, 15, 14), (1, 9, 8)])
@torch.no_grad()
def test_padding_as_in_tensorflow_rounds_up(size):
    conv = SameConv3d(2, 4, 3, stride=2)
    x = randn(1, 2, *size)
    assert conv(x).shape[2:] == tuple(-(-n // 2) for n in size)
    lowest = [max(0, (-(-n // 2) - 1) * 2 + 3 - n) // 2 for n in size]  # voxels of padding before the first
    padded = torch.zeros(1, 2, *(n + 3 for n in size))
    region = tuple(slice(low, low + n) for low, n in zip(lowest, size, strict=True))
    padded[(slice(None), slice(None), *region)] = x
    expected = F.conv3d(padded, conv.weight, conv.bias, stride=2)[:, :, : -(-size[0] // 2), : -(-size[1] // 2)]
    torch.testing.assert_close(conv(x), expected[..., : -(-size[2] // 2)])


@torch.no_grad()
def test_adaptive_pooling():
    x = randn(1, 3, 4, 6, 6)
    torch.testing.assert_close(inflate(nn.AdaptiveAvgPool2d(1))(x), x.mean((2, 3, 4), keepdim=True))
    in_plane = inflate(nn.AdaptiveAvgPool2d(2))(x)
    torch.testing.assert_close(in_plane[:, :, 3], F.adaptive_avg_pool2d(x[:, :, 3], 2))


def test_kernel_sums_to_the_2d_kernel():
    weight = randn(4, 3, 5, 5)
    for how in ("centre", "mean"):
        torch.testing.assert_close(inflate_kernel(weight, 3, how).sum(2), weight)
    assert (inflate_kernel(weight, 3)[:, :, [0, 2]] == 0).all()


def test_the_2d_network_is_left_alone_and_names_are_kept():
    net = network(nn.MaxPool2d(2))
    before = copy.deepcopy(net.state_dict())
    inflated = inflate(net)
    assert list(inflated.state_dict()) == list(before)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    x = randn(1, 3, 32, 32)
    assert torch.equal(net(x), network(nn.MaxPool2d(2))(x))


class OwnWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


@pytest.mark.parametrize(
    "layer",
    [nn.ZeroPad2d(1), nn.InstanceNorm2d(4), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 4, 2), OwnWeight()],
)
def test_layer_that_has_no_rule_is_refused(layer):
    with pytest.raises(BackboneError, match=rf"layer {type(layer).__name__} cannot be made 3D; .*slice by slice"):
        inflate(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(layer)))
