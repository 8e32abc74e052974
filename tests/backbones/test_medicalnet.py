"""MedicalNet's published layout loads in full and gives the original network's output."""

import pytest
import torch
from residual_reference import forward, medicalnet_plan, random_state

from med_transfer.backbones import backbones, load_backbone
from med_transfer.backbones.networks.resnet import ZeroPaddedShortcut, medicalnet
from med_transfer.errors import WeightsNotFound


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
def test_published_file_gives_the_original_forward(tmp_path, depth):
    plan = medicalnet_plan(depth)
    state = random_state(plan, seed=depth)
    file = tmp_path / f"resnet_{depth}_23dataset.pth"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)

    loaded = load_backbone(f"medicalnet-resnet{depth}", file)

    assert loaded.report.matched_share == 1
    assert not loaded.report.unexpected
    x = torch.randn(1, 1, 17, 24, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, original = loaded.encoder.eval()(x), forward(plan, state, x)
    for mine, theirs in zip(ours, original, strict=True):
        assert theirs.abs().mean() > 0.1  # a signal, not zeros, is compared
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_stages_3_and_4_keep_the_resolution():
    with torch.no_grad():
        maps = medicalnet(10).eval()(torch.zeros(1, 1, 48, 48, 48))
    assert [m.shape[2:] for m in maps] == [(12, 12, 12), (6, 6, 6), (6, 6, 6), (6, 6, 6)]


def test_gradient_passes_the_shortcut_without_parameters():
    x = torch.rand(1, 2, 4, 4, 4, requires_grad=True)
    ZeroPaddedShortcut(channels=5, stride=2)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == 2 * 2 * 2 * 2  # channels x the voxels that a stride of 2 keeps


@pytest.mark.parametrize("depth", [18, 34])
def test_every_shortcut_of_type_a_lets_the_gradient_through(shapes_only, depth):
    encoder = shapes_only(f"medicalnet-resnet{depth}")
    shortcuts = [layer[0].downsample for layer in (encoder.layer2, encoder.layer3, encoder.layer4)]
    assert [type(shortcut) for shortcut in shortcuts] == [ZeroPaddedShortcut] * 3
    assert [shortcut.stride for shortcut in shortcuts] == [2, 1, 1]


def test_missing_file_says_which_and_where():
    with pytest.raises(
        WeightsNotFound,
        match=r"needs a weights file; expected resnet_18_23dataset.pth or resnet_18.pth in .*, or its path.*https://hugging.*18",
    ):
        load_backbone("medicalnet-resnet18")


def test_scratch_needs_no_file():
    loaded = load_backbone("medicalnet-resnet10", scratch=True)
    assert loaded.sha256 is None
    assert "random values" in str(loaded.report)
    assert loaded.spec is backbones()["medicalnet-resnet10"]
