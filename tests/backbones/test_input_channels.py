"""Several channels: n equal ones give the output of one, in every family; weights for any number of channels load."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planar_reference import random_planar_state
from safetensors.torch import save_file

from med_transfer.backbones import find_backbone, from_scratch, load_backbone
from med_transfer.backbones.channels import coloured, fit_channels, widened, with_channels
from med_transfer.backbones.networks.colours import IMAGENET_MEAN, IMAGENET_STD, THREE_WINDOWS_HU
from med_transfer.backbones.networks.genesis_unet import GenesisEncoder
from med_transfer.backbones.networks.nnunet import NNUNetEncoder
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import torchvision_resnet
from med_transfer.backbones.networks.resnet import inflated_resnet, slim_resnet
from med_transfer.backbones.networks.segresnet import plain_segresnet
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.backbones.networks.stunet import STUNetEncoder
from med_transfer.backbones.networks.swin import swin_v1
from med_transfer.backbones.networks.video import VideoResNetEncoder
from med_transfer.backbones.networks.volumetric import VolumetricEncoder
from med_transfer.backbones.nnunet.plan import UNetArchitecture
from med_transfer.backbones.weights.matching import load_tensors
from med_transfer.errors import WeightsMismatch

N = 3


def unet(kind: str):
    architecture = UNetArchitecture(
        kind=kind, widths=(4, 8), kernels=((3, 3, 3),) * 2, strides=((1, 1, 1), (2, 2, 2)), repeats=(1, 1)
    )
    return partial(NNUNetEncoder, architecture)


def photographs(make, **options):
    return lambda: make(torchvision_resnet(18), AsPhotograph(windows_hu=THREE_WINDOWS_HU), **options)


FAMILIES = {
    "slim": slim_resnet,
    "i3d": lambda: inflated_resnet((1, 1, 1, 1)),
    "video": lambda: VideoResNetEncoder((1, 1, 1, 1), (4, 8, 8, 8)),
    "segresnet": lambda: plain_segresnet(8, (1, 1)),
    "stunet": lambda: STUNetEncoder((4, 8), 1),
    "genesis": lambda: GenesisEncoder((4, 8, 8, 8)),
    "swin": lambda: swin_v1(12),
    "plain nnU-Net": unet("plain"),
    "residual nnU-Net": unet("residual"),
    "inflated photographs": photographs(VolumetricEncoder),
    "acs photographs": photographs(VolumetricEncoder, way="acs"),
    "slices of photographs": photographs(SliceEncoder),
}

ONE_OF_A_KIND = (  # beside these families; all others are larger siblings
    *("resnet18-w32", "lung-nodule-resnet50", "ct-fm", "voco-b", "inflated-efficientnet-lite0-windows"),
    *("acs-timm-efficientnet-b0", "inflated-timm-convnext-tiny"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_channels_give_the_features_of_one(name):
    torch.manual_seed(0)
    one, several = FAMILIES[name]().double().eval(), widened(FAMILIES[name], N)().double().eval()
    report = load_tensors(several, one.state_dict(), "one channel")
    assert report.matched_share == 1
    assert str(report).endswith(f"First convolution: from 1 channel(s) of the file to {N}.")
    x = torch.rand(2, 1, 32, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for expected, found in zip(one(x), several(x.expand(-1, N, -1, -1, -1)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ONE_OF_A_KIND)
def test_every_entry_takes_two_channels_and_says_how_large_it_is_then(name, shapes_only):
    one = shapes_only(name)  # skipped if timm is missing
    spec = with_channels(find_backbone(name), 2)
    with torch.device("meta"):
        encoder = spec.build()
    maps = encoder(torch.empty(2, 2, *spec.input.minimum_shape, device="meta"))
    assert tuple(m.shape[1] for m in maps) == spec.stage_channels
    assert spec.parameters == sum(p.numel() for p in encoder.parameters())
    changed = [k for k, v in one.state_dict().items() if encoder.state_dict()[k].shape != v.shape]
    assert 1 <= len(changed) <= 2  # the first convolution, and a shortcut beside it
    assert all(key.endswith("weight") for key in changed)


@settings(max_examples=20)
@given(found=st.integers(1, 4), wanted=st.integers(1, 4), seed=st.integers(0, 9))
def test_any_number_to_any_other_keeps_the_answer_to_equal_channels(found, wanted, seed):
    torch.manual_seed(seed)
    build = unet("plain")
    source, target = (widened(build, n)().double().eval() for n in (found, wanted))
    load_tensors(target, source.state_dict(), "source")
    x = torch.rand(1, 1, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        theirs, ours = (net(x.expand(-1, n, -1, -1, -1))[-1] for net, n in ((source, found), (target, wanted)))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_same_number_is_left_as_it_is():
    encoder = widened(slim_resnet, 2)()
    state = widened(slim_resnet, 2)().state_dict()
    fitted, sentence = fit_channels(encoder, dict(state))
    assert sentence == ""
    assert fitted["conv1.weight"] is state["conv1.weight"]


def test_random_channels_differ_and_together_spread_as_one_does():
    specs = [with_channels(find_backbone("resnet18-w32"), n) for n in (1, 4)]
    one, several = (from_scratch(spec, seed=3).encoder.requires_grad_(False) for spec in specs)
    kernels = several.conv1.weight
    assert kernels.shape[1] == several.channels == 4
    assert float(np.corrcoef(kernels[:, 0].flatten(), kernels[:, 1].flatten())[0, 1]) == pytest.approx(0, abs=0.05)
    assert float(kernels.std()) * 2 == pytest.approx(float(one.conv1.weight.std()), rel=0.05)
    again = from_scratch(specs[1], seed=3).encoder
    assert torch.equal(again.conv1.weight, several.conv1.weight)


def test_channels_that_are_no_multiple_of_the_colours_are_refused():
    one = FAMILIES["segresnet"]().state_dict()
    with pytest.raises(WeightsMismatch):
        load_tensors(widened(FAMILIES["i3d"], 2)(), one, "another network")
    grey = FAMILIES["i3d"]().state_dict()
    grey["conv1.weight"] = grey["conv1.weight"][:, :1]
    with pytest.raises(WeightsMismatch, match="made for 1 input channel"):
        load_tensors(widened(FAMILIES["i3d"], 2)(), grey, "grey.pth")


def test_loading_by_name(tmp_path):
    state = load_backbone("resnet18-w32", seed=1).encoder.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "one.safetensors")
    loaded = load_backbone("resnet18-w32", tmp_path / "one.safetensors", channels=2)
    assert loaded.spec.input.channels == loaded.encoder.channels == 2
    assert "from 1 channel(s) of the file to 2" in str(loaded.report)
    torch.testing.assert_close(loaded.encoder.conv1.weight.sum(1, keepdim=True), state["conv1.weight"])
    assert from_scratch(loaded.spec).encoder.conv1.weight.shape[1] == 2  # the from-scratch baseline's network


@pytest.mark.parametrize("way", ["slices", "inflated", "acs"])
@torch.no_grad()
def test_three_windows_of_one_scan_are_the_colours_of_a_photograph(way, tmp_path):
    torch.save(random_planar_state(18), tmp_path / "resnet18-f37072fd.pth")
    one, three = (
        load_backbone(f"{way}-resnet18", tmp_path / "resnet18-f37072fd.pth", channels=channels)
        for channels in (1, "windows")
    )
    own = three.encoder.state_dict()
    assert all(torch.equal(own[name], values) for name, values in one.encoder.state_dict().items())
    assert (three.spec.input.channels, three.spec.as_colours, three.spec.parameters) == (3, True, one.spec.parameters)
    assert three.report.channels == ""
    x = torch.rand(2, 3, 8, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(three.encoder.photograph(x), (x - mean) / std)
    same = x[:, :1]
    for expected, found in zip(
        one.encoder.eval()(same), three.encoder.eval()(same.expand(-1, 3, -1, -1, -1)), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_three_windows_of_a_network_that_is_none_of_photographs_or_cuts_its_own_are_channels():
    for name, kernels in (("resnet18-w32", 3), ("slices-resnet50-windows", 9)):
        spec = with_channels(find_backbone(name), "windows")
        assert (spec.input.channels, spec.as_colours) == (3, False)
        with torch.device("meta"):
            assert next(p for p in spec.build().parameters() if p.ndim > 3).shape[1] == kernels


def test_a_file_of_nine_channels_is_summed_into_the_colours():
    nine = widened(lambda: SliceEncoder(torchvision_resnet(18), AsPhotograph()), 3)()
    three = coloured(lambda: SliceEncoder(torchvision_resnet(18), AsPhotograph()))()
    load_tensors(three, nine.state_dict(), "nine channels")
    expected = nine.net.conv1.weight.unflatten(1, (3, 3)).sum(2)
    torch.testing.assert_close(three.net.conv1.weight, expected)
