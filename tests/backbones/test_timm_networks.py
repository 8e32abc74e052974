"""timm's networks on CT, compared with timm itself, and the names of the files it publishes."""

import re

import pytest
import torch
from planar_reference import exported_equals, normalised, rand

from med_transfer.backbones import backbones
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import timm_network
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.backbones.networks.timm_volume import timm_rules
from med_transfer.backbones.networks.volumetric import VolumetricEncoder
from med_transfer.backbones.weights.matching import load_tensors

TIMM = {  # entry: published weights, and options that make a small sibling
    "timm-resnet50-a1": ("resnet50.a1_in1k", {"layers": (1, 1, 2, 1), "channels": (16, 24, 32, 48)}),
    "timm-convnext-tiny": ("convnext_tiny.fb_in1k", {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)}),
    "timm-efficientnet-b0": ("efficientnet_b0.ra_in1k", {}),
}
LITE0 = {"efficientnet-lite0": ("tf_efficientnet_lite0.in1k", {})}


def timm_model(name):
    """timm's own network, small, of random weights whose normalisations are no identities."""
    import timm

    published, options = TIMM[name]
    torch.manual_seed(0)
    model = timm.create_model(published, pretrained=False, **options).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith(("norm.weight", "running_var")) or ("bn" in key and key.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif key.endswith(("gamma", "norm.bias", "running_mean")):
            tensor.normal_(std=0.3)
    return model


def timm_maps(name, model, x):
    """What timm's features_only interface gives; EfficientNet's deepest map is its own forward_features."""
    import timm

    published, options = TIMM[name]
    indices = (0, 1, 2, 3) if "convnext" in name else (1, 2, 3, 4)
    features = timm.create_model(published, features_only=True, out_indices=indices, **options).eval()
    renamed = {re.sub(r"^(stem|stages)\.", r"\1_", key): value for key, value in model.state_dict().items()}
    features.load_state_dict({key: renamed[key] for key in features.state_dict()})
    maps = features(x)
    return [*maps[:-1], model.forward_features(x)] if "efficientnet" in name else maps


def small_planar(name):
    if "efficientnet" in name:
        return timm_network("efficientnet_b0", ("conv_head", "bn2"), 1280)
    return timm_network(TIMM[name][0].partition(".")[0], **TIMM[name][1])


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timm_networks_give_what_timm_gives_on_every_slice(name):
    model, x = timm_model(name), rand(1, 1, 1, 64, 64)
    expected = timm_maps(name, model, normalised(x[:, :, 0]))
    flat = 2 if "efficientnet" in name else 1
    slices = SliceEncoder(small_planar(name), AsPhotograph())
    inflated = VolumetricEncoder(small_planar(name), AsPhotograph(), "centre", flat, timm_rules())
    for encoder in (slices, inflated):
        report = load_tensors(encoder, model.state_dict(), "file", backbones()[f"slices-{name}"].renaming)
        assert report.matched_share == 1
        assert not report.unexpected
    planar, volume = slices.eval()(x), inflated.eval()(x.expand(-1, -1, 8, -1, -1))
    assert slices.stage_channels == tuple(m.shape[1] for m in expected)
    for thin, deep, theirs in zip(planar, volume, expected, strict=True):
        assert theirs.abs().mean() > 0.001
        tolerance = {"rtol": 1e-3, "atol": 1e-3 * float(theirs.abs().mean())}
        torch.testing.assert_close(thin[:, :, 0], theirs, **tolerance)
        for index in range(deep.shape[2]):
            torch.testing.assert_close(deep[:, :, index], theirs, **tolerance)


@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timm_networks_from_three_sides_keep_their_weights(name):
    model = timm_model(name)
    encoder = VolumetricEncoder(small_planar(name), AsPhotograph(), "acs", rules=timm_rules()).eval()
    load_tensors(encoder, model.state_dict(), "file", backbones()[f"acs-{name}"].renaming)
    published = model.state_dict()
    assert all(torch.equal(tensor, published[key]) for key, tensor in encoder.net.state_dict().items())
    assert all(torch.isfinite(m).all() for m in encoder(rand(1, 1, 33, 40, 47)))


@pytest.mark.parametrize("name", TIMM)
def test_names_of_timms_files_are_those_of_the_entry(name, shapes_only):
    import timm

    with torch.device("meta"):
        published = timm.create_model(TIMM[name][0], pretrained=False).state_dict()
    renaming = backbones()[f"slices-{name}"].renaming
    shapes = {renaming(key): tensor.shape for key, tensor in published.items()}
    own = {key: tensor.shape for key, tensor in shapes_only(f"slices-{name}").state_dict().items()}
    own = {key: shape for key, shape in own.items() if not key.startswith("attention")}
    assert own.items() <= shapes.items()
    assert {key.split(".")[1] for key in shapes.keys() - own.keys()} <= {"fc", "head", "classifier"}


@pytest.mark.parametrize("name", TIMM | LITE0)
def test_normalisation_is_what_timm_says_the_weights_were_trained_with(name):
    import timm

    published = timm.get_pretrained_cfg((TIMM | LITE0)[name][0])
    photograph = backbones()[f"slices-{name}"].build().photograph
    tolerance = 0.002 if "lite0" in name else 1e-6  # timm rounds (127 / 255, 128 / 255) to 0.5
    assert photograph.mean.flatten().tolist() == pytest.approx(published.mean, abs=tolerance)
    assert photograph.std.flatten().tolist() == pytest.approx(published.std, abs=tolerance)


def test_the_authors_file_of_convnext_loads():
    """Its names, made from timm's, are turned back by timm's own code, and by ours."""
    from timm.models.convnext import checkpoint_filter_fn

    name, model = "timm-convnext-tiny", timm_model("timm-convnext-tiny")
    ours, authors = model.state_dict(), {}
    rules = [
        *((r"^stem\.", "downsample_layers.0."), (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.")),
        *((r"\.blocks\.", "."), ("conv_dw", "dwconv"), (r"mlp\.fc", "pwconv")),
        *((r"^head\.norm\.", "norm."), (r"^head\.fc\.", "head.")),
    ]
    for key, tensor in ours.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        authors[key] = tensor
    turned_back = checkpoint_filter_fn(dict(authors), model)
    assert turned_back.keys() == ours.keys()
    assert all(torch.equal(turned_back[key], tensor) for key, tensor in ours.items())
    encoder = SliceEncoder(small_planar(name), AsPhotograph())
    report = load_tensors(encoder, authors, "file", backbones()[f"slices-{name}"].renaming)
    assert report.matched_share == 1
    assert not report.unexpected
    assert all(torch.equal(tensor, ours[key]) for key, tensor in encoder.net.state_dict().items())


@pytest.mark.parametrize(("name", "way"), [("timm-convnext-tiny", "acs"), ("timm-resnet50-a1", "centre")])
def test_volumes_can_be_exported(name, way):
    encoder = VolumetricEncoder(small_planar(name), AsPhotograph(), way, rules=timm_rules())
    exported_equals(encoder, rand(1, 1, 32, 32, 32))
