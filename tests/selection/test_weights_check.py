"""Scans through a network whose statistics remember them, and through one whose do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mr_like import mr_values
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from med_transfer.backbones import LoadedBackbone, LoadReport, find_backbone, load_backbone
from med_transfer.backbones.networks.resnet import slim_resnet
from med_transfer.errors import NothingDone
from med_transfer.phantoms import phantom_volume
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import Provenance, Volume
from med_transfer.selection.weights_check import agreement, keeps_statistics, verify

SHAPE, SPACING_MM = (16, 32, 32), (8.0, 8.0, 8.0)
WAYS = ("inflated", "acs", "slices")


def scans(count, first=0):
    made = [phantom_volume("solid", seed=1, patient=n, shape=(24, 48, 48)) for n in range(first, first + count)]
    return [Volume(one.voxels, one.affine, Provenance("phantom", "nifti")) for one in made]


def images(volumes, needs):
    config = PreprocessingConfig(
        orientation=needs.orientation,
        spacing_mm=needs.spacing_mm,
        shape=needs.shape,
        region="foreground",
        window_hu=needs.window_hu,
        output_range=needs.output_range,
    )
    return [Preprocessing(config)(volume)[None] for volume in volumes]


@pytest.fixture(scope="module")
def remembering():
    """A network whose normalisations hold the statistics of six phantoms, as those of a trained one do."""
    spec = find_backbone("resnet18-w32")
    needs = replace(spec.input, spacing_mm=SPACING_MM, shape=SHAPE)
    torch.manual_seed(0)
    encoder = slim_resnet().train()
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.momentum = None  # the plain mean over batches
    with torch.no_grad():
        for _ in range(2):
            encoder(torch.cat(images(scans(6), needs)))
    return LoadedBackbone(encoder.eval(), replace(spec, input=needs), LoadReport(), None)


def seen_through(backbone, **changes):
    return replace(backbone, spec=replace(backbone.spec, input=replace(backbone.spec.input, **changes)))


def test_statistics_equal_those_that_batch_normalisation_itself_takes(remembering):
    encoder, batch = remembering.encoder, images(scans(3), remembering.spec.input)
    found = agreement(encoder, batch)
    first = encoder.bn1
    with torch.no_grad():
        maps = torch.cat([encoder.conv1(image) for image in batch])
    mean, sd = maps.mean((0, 2, 3, 4)), maps.std((0, 2, 3, 4), correction=0)
    only = agreement(nn.Sequential(encoder.conv1, first), batch)
    assert only.layers == 1
    assert only.correlation == pytest.approx(np.corrcoef(mean, first.running_mean)[0, 1], abs=1e-4)
    assert only.shift == pytest.approx(
        float(torch.median((mean - first.running_mean).abs() / first.running_var.sqrt())), abs=1e-4
    )
    assert only.spread == pytest.approx(float(torch.median((sd / first.running_var.sqrt()).log().abs())), abs=1e-4)
    assert found.layers == sum(isinstance(m, nn.BatchNorm3d) for m in encoder.modules())


@pytest.mark.parametrize("name", ["slices-resnet18", *(f"{way}-efficientnet-lite0" for way in WAYS)])
def test_networks_made_of_2d_ones_remember_too(name):
    """Their normalisations see slices [scan x slice, channel, height, width], or have the activation in them."""
    if "lite0" in name:
        pytest.importorskip("timm")
    encoder, batch, seen = load_backbone(name, scratch=True).encoder.eval(), torch.rand(2, 1, 4, 32, 32), {}
    layers = [layer for layer in encoder.modules() if isinstance(layer, _BatchNorm)]
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, inputs: seen.setdefault(layer, []).append(inputs[0]))
    found = agreement(encoder, batch.split(1))
    maps = [torch.cat(seen[layer]).transpose(0, 1).flatten(1).double() for layer in layers]
    shifts = [(m.mean(1) - layer.running_mean).abs().median() for m, layer in zip(maps, layers, strict=True)]
    spreads = [m.std(1, correction=0).log().abs().median() for m in maps]  # as stored: mean 0, variance 1
    assert (keeps_statistics(encoder), found.layers) == (True, len(layers))
    assert found.shift == pytest.approx(np.median(shifts), rel=1e-4)
    assert found.spread == pytest.approx(np.median(spreads), rel=1e-4)


def test_other_scans_of_the_same_kind_fit(remembering):
    fit = verify(remembering, scans(3, first=20))
    assert fit.verdict == "fits"
    assert fit.agreement.correlation > 0.95


def test_another_window_is_named(remembering):
    fit = verify(seen_through(remembering, window_hu=(-175.0, 250.0)), scans(3, first=20))
    assert fit.verdict == "wrong window"
    assert "with window -1000 to 1000 HU the scans agree better" in fit.reason


def test_other_weights(remembering):
    torch.manual_seed(1)
    strange = slim_resnet().eval()
    for name, tensor in strange.state_dict().items():
        if "running" not in name:
            tensor.copy_(
                remembering.encoder.state_dict()[name].flatten()[torch.randperm(tensor.numel())].view_as(tensor)
            )
        else:
            tensor.copy_(remembering.encoder.state_dict()[name].roll(1))
    fit = verify(replace(remembering, encoder=strange), scans(3, first=20))
    assert fit.verdict == "wrong weights"


def test_another_modality(remembering):
    """What is dark in CT is bright here, which no window undoes."""
    inverted = [replace(one, voxels=-one.voxels) for one in scans(3, first=20)]
    fit = verify(remembering, inverted)
    assert fit.verdict in ("wrong modality", "wrong weights")
    assert fit.agreement.correlation < 0.9


def test_mr_is_given_as_z_scores_and_no_window_in_hu_is_tried(remembering):
    provenance = Provenance("phantom", "dicom", "MR")
    volumes = [replace(one, voxels=mr_values(one.voxels, 3.0), provenance=provenance) for one in scans(3, first=20)]
    fit, louder = (verify(remembering, [replace(one, voxels=one.voxels * gain) for one in volumes]) for gain in (1, 5))
    assert not any("HU" in name for name in fit.tried)
    assert fit.agreement.distance == pytest.approx(louder.agreement.distance, rel=1e-3)


@pytest.fixture
def without_memory(remembering):
    encoder = slim_resnet().eval()
    for name, layer in [*encoder.named_modules()]:
        if isinstance(layer, nn.BatchNorm3d):
            parent, _, last = name.rpartition(".")
            setattr(encoder.get_submodule(parent), last, nn.InstanceNorm3d(layer.num_features))
    return replace(remembering, encoder=encoder)


def test_a_network_without_memory_is_asked_whether_it_tells_scans_apart(without_memory):
    fit = verify(without_memory, scans(4))
    assert fit.agreement is None
    assert fit.verdict in ("fits", "collapsed")
    assert 1 <= fit.features.effective_rank <= 3
    assert verify(without_memory, scans(2)).verdict == "cannot tell"


def test_features_that_do_not_depend_on_the_scan_have_collapsed(without_memory):
    last = without_memory.encoder.layer4
    last.register_forward_hook(lambda module, inputs, output: torch.ones_like(output))
    fit = verify(without_memory, scans(3))
    assert fit.verdict == "collapsed"
    assert fit.features.mean_cosine == pytest.approx(1)


def test_no_scans(remembering):
    with pytest.raises(NothingDone, match="no scan to compare with; expected at least one usable scan"):
        verify(remembering, [])
