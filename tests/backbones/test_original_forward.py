"""The tensors of a published file give the original network's output: small siblings, the same builders.

Twice: against forward passes written with torch's functions only, and, where the original is a class of MONAI or
torchvision, against what that class itself computes on the way to its output.
"""

import pytest
import torch
from monai.networks.nets.resnet import ResNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResNetDS, SegResNetDS2
from monai.networks.nets.swin_unetr import SwinUNETR
from published_files import (
    PUBLISHED,
    SUPREM,
    Published,
    ct_fm_file,
    old_segresnet_file,
    randomly,
    suprem_swin_file,
    swin_5k_file,
    swin_50k_file,
    video_file,
    vista3d_file,
    voco_file,
    vocomni_file,
)
from residual_reference import forward, medicalnet_plan, nodule_plan, video_plan
from segresnet_reference import ds_forward, old_forward
from swin_reference import swin_forward

from med_transfer.backbones import find_backbone, load_backbone
from med_transfer.backbones.networks.nodule_detector import NoduleDetectorEncoder
from med_transfer.backbones.networks.resnet import medicalnet
from med_transfer.backbones.networks.segresnet import ct_fm, plain_segresnet, vista3d
from med_transfer.backbones.networks.swin import PatchMergingBefore15, SwinEncoder, swin_v1, swin_v2
from med_transfer.backbones.networks.video import VideoResNetEncoder
from med_transfer.backbones.weights import loading
from med_transfer.backbones.weights.matching import load_tensors

SMALL_VIDEO = ((1, 2, 1, 1), (8, 16, 32, 64))  # blocks and widths
KINETICS = torch.tensor([[0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989]]).view(2, 3, 1, 1, 1)


def noise(*shape: int, seed: int = 0):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


def assert_same(ours, original, tolerance=1e-4):
    assert len(ours) == len(original)
    for mine, theirs in zip(ours, original, strict=True):
        assert theirs.abs().mean() > 0.05  # a signal, not zeros, is compared
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.fixture
def from_file(tmp_path, monkeypatch):
    """A small sibling under a backbone's name, with the values of a file in that backbone's layout."""

    def from_file(name, small, file: Published):
        monkeypatch.setattr(loading, "_build", lambda spec, seed: small)
        path = tmp_path / ("model.safetensors" if name.startswith("ct-fm") else "model.pt")
        file.write(path, randomly())
        loaded = load_backbone(name, path, accept_licence=find_backbone(name).licence)
        assert (loaded.report.matched_share, loaded.report.unexpected) == (1, ())
        written = file.tensors(randomly())
        return loaded.encoder.eval(), {key: written[file.rename(key)] for key in file.encoder}

    return from_file


# With torch's functions alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("suprem-segresnet", old_segresnet_file(8, 25, "module", **SUPREM)),
        ("wholebody-segresnet-1.5mm", old_segresnet_file(8, 105)),
    ],
)
def test_segresnet(from_file, name, file):
    encoder, state = from_file(name, plain_segresnet(8), file)
    x = noise(16, 24, 32)
    with torch.no_grad():
        assert_same(encoder(x), old_forward(state, x))


@pytest.mark.parametrize("decoder", [False, True])
def test_ct_fm(from_file, decoder):
    encoder, state = from_file("ct-fm-segresnet" if decoder else "ct-fm", ct_fm(4), ct_fm_file(4, decoder))
    x = noise(16, 32, 48)
    with torch.no_grad():
        assert_same(encoder(x), ds_forward(state, x))


def test_vista3d(from_file):
    encoder, state = from_file("vista3d", vista3d(4), vista3d_file(4))
    x = noise(32, 32, 48)
    with torch.no_grad():
        assert_same(encoder(x), ds_forward(state, x, batch_norm=False))


CUBE, PADDED = (32, 32, 32), (24, 40, 52)  # sides that are no multiples of 32 are padded inside
SWIN = [
    ("swin-ssl-5k", swin_v1, swin_5k_file(12), PADDED),
    ("swin-ssl-50k", swin_v1, swin_50k_file(12), CUBE),
    ("suprem-swinunetr", swin_v1, suprem_swin_file(12), CUBE),
    ("voco-b", swin_v2, voco_file(12), PADDED),
    ("vocomni-b", swin_v2, vocomni_file(12), CUBE),
]


@pytest.mark.parametrize(("name", "build", "file", "shape"), SWIN, ids=[name for name, *_ in SWIN])
def test_swin(from_file, name, build, file, shape):
    encoder, state = from_file(name, build(12), file)
    x = noise(*shape)
    with torch.no_grad():
        assert_same(encoder(x), swin_forward(state, x))


def test_nodule_detector(from_file):
    encoder, state = from_file("lung-nodule-resnet50", NoduleDetectorEncoder(), PUBLISHED["lung-nodule-resnet50"])
    x = noise(32, 24, 10)
    with torch.no_grad():
        assert_same(encoder(x), forward(nodule_plan(), state, x))
        assert [m.shape[2:] for m in encoder(x)] == [(8, 6, 5), (4, 3, 3)]


def test_video_network(from_file):
    encoder, state = from_file("r3d18-kinetics", VideoResNetEncoder(*SMALL_VIDEO), video_file(*SMALL_VIDEO))
    x = noise(8, 24, 32).clamp(0, 1)
    with torch.no_grad():
        coloured = (x.expand(-1, 3, -1, -1, -1) - KINETICS[0]) / KINETICS[1]
        assert_same(encoder(x), forward(video_plan(*SMALL_VIDEO), state, coloured))


def test_deeper_medicalnet_is_dilated_as_the_others():
    """101, 152 and 200 differ from 50 in the number of blocks alone."""
    for depth in (101, 152, 200):
        stages = [dict(stage.named_modules()) for stage in _meta(depth).stages()[1:]]
        plan = medicalnet_plan(depth)
        for stage, blocks, stride, dilation in zip(stages, plan.blocks, plan.strides, plan.dilations, strict=True):
            convolutions = [stage[f"{block}.conv2"] for block in range(blocks)]
            assert {c.dilation for c in convolutions} == {(dilation,) * 3}
            assert [c.stride for c in convolutions] == [(stride,) * 3] + [(1,) * 3] * (blocks - 1)


def _meta(depth):
    with torch.device("meta"):
        return medicalnet(depth)


# The original classes ------------------------------------------------------------------------------------------------


def outputs(network, modules, x, first_input=False):
    """What these modules of a network give, or are given, while the whole of it runs."""
    seen = {}
    for module in modules:
        module.register_forward_hook(
            lambda which, given, made: seen.update({which: (given[0] if first_input else made).clone()})
        )
    with torch.no_grad():
        network.eval()(x)
    return [seen[module] for module in modules]


def ours_with(encoder, network, renaming, x):
    report = load_tensors(encoder, network.state_dict(), "original", renaming)
    assert (report.matched_share, report.unexpected) == (1, ())
    with torch.no_grad():
        return encoder.eval()(x)


def test_segresnet_of_monai():
    torch.manual_seed(1)
    network, x = SegResNet(init_filters=8, out_channels=5, dropout_prob=0.2), noise(16, 24, 32)
    renaming = find_backbone("wholebody-segresnet-1.5mm").renaming
    assert_same(ours_with(plain_segresnet(8), network, renaming, x), outputs(network, network.down_layers, x), 1e-6)


@pytest.mark.parametrize(
    ("kind", "norm", "build", "name"),
    [(SegResNetDS, "batch", ct_fm, "ct-fm-segresnet"), (SegResNetDS2, "instance", vista3d, "vista3d")],
)
def test_segresnet_ds_of_monai(kind, norm, build, name):
    torch.manual_seed(2)
    network = kind(init_filters=4, blocks_down=(1, 2, 2, 4, 4), norm=norm, dsdepth=1)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():  # else every normalisation is the identity
            tensor.copy_(randomly(len(key))(key, tuple(tensor.shape)))
    x = noise(32, 32, 48)
    blocks = [level["blocks"] for level in network.encoder.layers]
    assert_same(ours_with(build(4), network, find_backbone(name).renaming, x), outputs(network, blocks, x), 1e-6)


@pytest.mark.parametrize("residual", [False, True])
def test_swin_unetr_of_monai(residual):
    """Its convolutions beside the transformer receive the first three maps, the decoder's start the last."""
    torch.manual_seed(3)
    network = SwinUNETR(
        in_channels=1, out_channels=2, feature_size=12, use_v2=residual, downsample=PatchMergingBefore15
    )
    x = noise(32, 64, 32)
    ours = ours_with(SwinEncoder(12, residual), network, find_backbone("vocomni-b").renaming, x)
    receivers = [network.encoder2, network.encoder3, network.encoder4, network.encoder10]
    theirs = outputs(network, receivers, x, first_input=True)
    assert_same([*ours[:3], ours[4]], theirs, 1e-6)


def test_monai_merges_patches_otherwise_since_1_5():
    """The reason for a merging of our own: the same tensors in today's Swin UNETR give other features."""
    torch.manual_seed(4)
    network, x = SwinUNETR(in_channels=1, out_channels=2, feature_size=12), noise(32, 64, 32)
    ours = ours_with(swin_v1(12), network, find_backbone("swin-btcv").renaming, x)
    (embedded, deepest) = outputs(network, [network.encoder2, network.encoder10], x, first_input=True)
    torch.testing.assert_close(ours[0], embedded)
    assert (ours[4] - deepest).abs().mean() > 0.1 * deepest.abs().mean()


def test_nodule_detector_of_monai():
    feature_pyramid = pytest.importorskip("monai.networks.blocks.backbone_fpn_utils")
    pytest.importorskip("torchvision")
    torch.manual_seed(5)
    net = ResNet("bottleneck", [1, 2, 1, 1], [8, 16, 32, 64], 3, 1, conv1_t_size=(7, 7, 7), conv1_t_stride=(2, 2, 1))
    extractor = feature_pyramid._resnet_fpn_extractor(net, 3, returned_layers=[1, 2])
    x = noise(32, 24, 10)
    ours = ours_with(
        NoduleDetectorEncoder((1, 2), (8, 16)), extractor, find_backbone("lung-nodule-resnet50").renaming, x
    )
    with torch.no_grad():
        assert_same(ours, list(extractor.eval().body(x).values()), 1e-6)


def test_video_network_of_torchvision():
    video = pytest.importorskip("torchvision.models.video.resnet")
    torch.manual_seed(6)
    network = video.VideoResNet(video.BasicBlock, [video.Conv3DSimple] * 4, [1, 1, 1, 1], video.BasicStem)
    x = noise(8, 24, 32).clamp(0, 1)
    ours = ours_with(VideoResNetEncoder((1, 1, 1, 1)), network, find_backbone("r3d18-kinetics").renaming, x)
    coloured = (x.expand(-1, 3, -1, -1, -1) - KINETICS[0]) / KINETICS[1]
    layers = [network.layer1, network.layer2, network.layer3, network.layer4]
    assert_same(ours, outputs(network, layers, coloured), 1e-5)
