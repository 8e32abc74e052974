"""Attention over slices and tiles as a map on the input's voxels, against plain loops, and its record."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import torchvision_resnet
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.backbones.networks.tiles import TileEncoder
from med_transfer.errors import ConfigError
from med_transfer.explanation import Attention, GradCAM, MapCheckSettings, explain
from med_transfer.explanation.settings import MapSettings
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble


class Brightness(Encoder):
    """One map of two channels: the voxels, and their squares."""

    stage_channels = (2,)

    def stages(self):
        return [nn.Identity(), nn.Identity()]

    def forward(self, x):
        return [torch.cat([x, x.square()], dim=1)]


def looking_for_light(n_fold_models=1):
    """Networks of tiles whose attention goes by brightness, each sharper than the one before."""
    fold_models = []
    for number in range(n_fold_models):
        encoder = TileEncoder(Brightness(), (4, 8, 8), overlap=0.5)
        for parameter in encoder.attention.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(encoder.attention.value.weight[:1, :1], 5.0)
        nn.init.constant_(encoder.attention.score.weight[:, :1], 6.0 * (number + 1))
        fold_models.append(Classifier(encoder, 2))
        nn.init.constant_(fold_models[-1].head.weight, 0.0)
        nn.init.constant_(fold_models[-1].head.weight[:1], 20.0)
    return Ensemble(fold_models).eval()


@pytest.fixture
def image():
    """A dim body with a lamp in it, beside air."""
    values = torch.zeros(1, 8, 24, 32)
    values[..., 12:] = 0.2 + 0.02 * torch.rand(8, 24, 20, generator=torch.Generator().manual_seed(0))
    values[:, 4:6, 17:20, 25:28] = 1.0
    return values


@torch.no_grad()
def test_map_is_the_mean_weight_of_the_tiles_that_cover_a_voxel(image):
    ensemble = looking_for_light(2)
    corners = list(itertools.product((0, 2, 4), (0, 4, 8, 12, 16), (0, 4, 8, 12, 16, 20, 24)))
    shares = np.zeros(len(corners))
    for fold_model in ensemble.fold_models:
        raised = []
        for k, i, j in corners:
            tile = image[0, k : k + 4, i : i + 8, j : j + 8]
            score = fold_model.encoder.attention.score.weight[0, 0] * np.tanh(5.0 * tile.mean()) * 0.5
            raised.append(np.exp(score) if tile.max() > 0 else 0.0)
        raised = np.array(raised)
        shares += (raised / raised.sum() * (raised > 0).sum() - 1) / 2
    expected, n = np.zeros((8, 24, 32)), np.zeros((8, 24, 32))
    for share, (k, i, j) in zip(shares, corners, strict=True):
        expected[k : k + 4, i : i + 8, j : j + 8] += share
        n[k : k + 4, i : i + 8, j : j + 8] += 1
    heat = Attention()(ensemble, image, 0)
    np.testing.assert_allclose(heat.values, expected / n, rtol=1e-4, atol=1e-5)
    assert heat.element_voxels == (4.0, 8.0, 8.0)
    assert heat.values[:, :, :4].max() == -1.0  # air


def test_map_lies_on_what_the_network_goes_by_and_passes_the_checks(image):
    explained = explain(looking_for_light(), image, 0, Attention(), MapCheckSettings(draws=3))
    depth, height, width = explained.heat.peak
    assert 2 <= depth < 8
    assert 10 <= height < 26
    assert 18 <= width < 32
    assert explained.deletion is not None
    assert explained.deletion.beats_chance
    assert explained.sanity is not None


@pytest.mark.parametrize("kind", ["tiles", "slices"])
def test_attention_that_has_learned_nothing_says_nothing(image, kind):
    slices = SliceEncoder(torchvision_resnet(18), AsPhotograph())
    encoder = TileEncoder(Brightness(), (4, 8, 8)) if kind == "tiles" else slices
    shown = torch.rand(1, 4, 64, 64) if kind == "slices" else image
    explained = explain(Ensemble([Classifier(encoder, 2)]).eval(), shown, 0, Attention())
    assert explained.doubts == ("Nothing in the map supports the class.",)


def test_slices_have_their_weights():
    torch.manual_seed(0)
    encoder = SliceEncoder(torchvision_resnet(18), AsPhotograph()).eval()
    nn.init.normal_(encoder.attention.score.weight)
    image = torch.rand(1, 5, 64, 64)
    heat = Attention()(Ensemble([Classifier(encoder, 2)]).eval(), image, 0)
    with torch.no_grad():
        weights = encoder.instance_weights(encoder(image[None]))[0].numpy()
    np.testing.assert_allclose(heat.values, np.broadcast_to((weights * 5 - 1)[:, None, None], (5, 64, 64)), atol=1e-4)
    assert heat.element_voxels == (1.0, 64.0, 64.0)


def test_networks_without_attention_are_refused_and_explained_otherwise(image):
    pooled = TileEncoder(Brightness(), (4, 8, 8))
    pooled.pool_by("max")
    ensemble = Ensemble([Classifier(pooled, 2)]).eval()
    with pytest.raises(ConfigError, match=r"attention: .*pooled by max; expected .*instance_pooling: attention\. Use"):
        Attention()(ensemble, image, 0)
    assert GradCAM()(ensemble, image, 0).values.shape == (8, 24, 32)
    with pytest.raises(ConfigError, match="a network that has no attention"):
        Attention()(Ensemble([Classifier(Brightness(), 2)]).eval(), image, 0)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"stage": 1}, "attention: stage 1; expected method gradcam"),
        ({"window_mm": 9.0}, "attention: a window or stride; expected method occlusion"),
    ],
)
def test_settings_of_other_methods_are_refused(setting, complaint):
    with pytest.raises(ConfigError, match=complaint):
        MapSettings(method="attention", **setting)
