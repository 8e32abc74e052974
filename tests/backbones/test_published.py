"""The published network beside one that has learned more, against the published network by itself."""

import copy

import pytest
import torch
from torch import nn

from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import torchvision_resnet
from med_transfer.backbones.networks.published import PublishedAndLearned, beside_published
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.backbones.weights.matching import load_tensors
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
def encoder(published) -> PublishedAndLearned:
    learned = slices(0)
    learned.answer()
    return beside_published(copy.deepcopy(published), learned).eval()


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
    alone.answer().load_state_dict(encoder.learned.answers.state_dict())
    of_published, *others = encoder(image)
    assert (of_published[1, :, 0] == 0).all()  # of an empty slice
    for one, other in zip(others, alone(image), strict=True):
        torch.testing.assert_close(one, other)
    assert encoder.stage_channels == (512, *CHANNELS, 2)


@torch.no_grad()
def test_both_are_pooled_and_computed_elsewhere_each_by_itself(encoder):
    image = rand(2, 1, 3, 64, 64)
    image[1, :, 0] = 0.0
    features = encoder.pool(encoder(image), (0, 5))
    assert features.shape == (2, sum(encoder.pooled_channels((0, 5)))) == (2, 514)
    both = copy.deepcopy(encoder).independent_parts((0, 5))
    assert [stages for _, stages in both] == [(0,), (4,)]
    alone = [one.pool(one(image), stages) for one, stages in both]
    torch.testing.assert_close(torch.cat(alone, dim=1), features)
    elsewhere = encoder.with_independent_parts([copy.deepcopy(one).with_core(one.core(stages)) for one, stages in both])
    assert not any(name.startswith(("published.net", "learned.net")) for name in elsewhere.state_dict())
    torch.testing.assert_close(elsewhere.pool(elsewhere(image), (0, 5)), features, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_fold_models_have_in_common_is_computed_once(published):
    learned, images = [slices(seed) for seed in (0, 0, 2)], rand(2, 1, 3, 64, 64)
    encoders = [beside_published(copy.deepcopy(published), one).eval() for one in learned]
    ensemble = Ensemble([Classifier(one, 2, (0, -1)) for one in encoders]).eval()
    expected = [model.features(images) for model in ensemble.fold_models]
    shared = ensemble.share_encoders(ensemble.equal_encoders())
    passed = []
    for one in {one for model in shared.fold_models for one, _ in model.encoders}:
        one.register_forward_hook(lambda module, *_: passed.append(module))
    for one, other in zip(shared.fold_model_features(images), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert len(passed) == 3  # the published one, and two that learned


def test_a_bundle_of_both_is_a_source_of_what_was_learned(encoder):
    tensors = {f"member0.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    found = slices(3)
    report = load_tensors(found, tensors, "model.safetensors")
    assert not report.missing
    assert not report.unexpected
    assert all(
        torch.equal(value, encoder.learned.net.state_dict()[name]) for name, value in found.net.state_dict().items()
    )


def test_its_stages_hold_every_tensor_once(encoder):
    held = [id(t) for stage in encoder.stages() for t in (*stage.parameters(), *stage.buffers())]
    assert sorted(held) == sorted(id(t) for t in (*encoder.parameters(), *encoder.buffers()))
    assert len(encoder.stages()) == len(encoder.stage_channels) + 1


def test_a_heat_map_shows_where_the_network_that_learned_more_looks(encoder):
    model = Ensemble([Classifier(encoder, 2, (0, -1))]).eval()
    assert 0 < GradCAM()(model, rand(1, 3, 64, 64), 0).stage < 5
    heat = GradCAM(stage=0)(model, rand(1, 3, 64, 64), 0)
    assert heat.values.shape == (3, 64, 64)
