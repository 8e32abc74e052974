"""The network as it was published beside one that has learned more: against the published network by itself."""

import copy

import pytest
import torch
from torch import nn

from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import torchvision_resnet
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.explanation import GradCAM
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble

CHANNELS = (64, 128, 256, 512)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def slices(seed: int) -> SliceEncoder:
    torch.manual_seed(seed)
    encoder = SliceEncoder(torchvision_resnet(18), AsPhotograph()).eval()
    encoder.pool_by("log_mean_exp")
    return encoder


@pytest.fixture(scope="module")
def published() -> SliceEncoder:
    return slices(1)


@pytest.fixture
def encoder(published) -> SliceEncoder:
    encoder = slices(0)
    encoder.answer()
    encoder.keep_published(copy.deepcopy(published))
    return encoder


@torch.no_grad()
@pytest.mark.parametrize(
    ("height", "width", "size"), [(56, 112, (112, 224)), (160, 128, (224, 179)), (64, 256, (64, 256))]
)
def test_its_map_is_the_deepest_of_the_published_network_on_slices_as_large_as_photographs(
    encoder, published, height, width, size
):
    image = rand(1, 1, 2, height, width)
    normalised = AsPhotograph()(image)[0].transpose(0, 1)
    enlarged = nn.functional.interpolate(normalised, size=size, mode="bilinear", align_corners=False)
    expected = published.net_maps(enlarged)[-1].transpose(0, 1)[None]
    torch.testing.assert_close(encoder(image)[0], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_other_maps_and_the_answers_are_as_without_it(encoder):
    image = rand(2, 1, 4, 64, 64)
    image[1, :, 0] = 0.0
    alone = slices(0)
    alone.answer().load_state_dict(encoder.answers.state_dict())
    of_published, *others = encoder(image)
    assert (of_published[1, :, 0] == 0).all()  # of an empty slice
    for one, other in zip(others, alone(image), strict=True):
        torch.testing.assert_close(one, other)
    assert encoder.stage_channels == (512, *CHANNELS, 2)
    for said, by_itself in zip(encoder.answer_parts(image), alone.answer_parts(image), strict=True):
        torch.testing.assert_close(said, by_itself)


@torch.no_grad()
def test_another_runtime_computes_the_same(encoder):
    image = rand(2, 1, 3, 64, 64)
    image[1, :, 0] = 0.0
    expected = encoder.pool(encoder(image), (0, 5))
    assert expected.shape == (2, 514)
    elsewhere = copy.deepcopy(encoder).with_core(encoder.core((0, 5)))
    assert not any(name.startswith("published") for name in elsewhere.state_dict())
    torch.testing.assert_close(elsewhere.pool(elsewhere(image), (0, 5)), expected, rtol=1e-5, atol=1e-5)


def test_its_stages_hold_every_tensor_once(encoder):
    held = [id(t) for stage in encoder.stages() for t in (*stage.parameters(), *stage.buffers())]
    assert sorted(held) == sorted(id(t) for t in (*encoder.parameters(), *encoder.buffers()))
    assert len(encoder.stages()) == len(encoder.stage_channels) + 1


def test_a_heat_map_shows_where_the_network_that_learned_more_looks(encoder):
    model = Ensemble([Classifier(encoder, 2, (0, -1))]).eval()
    assert 0 < GradCAM()(model, rand(1, 3, 64, 64), 0).stage < 5
    heat = GradCAM(stage=0)(model, rand(1, 3, 64, 64), 0)
    assert heat.values.shape == (3, 64, 64)
