"""The answers of a network of slices that learned painted lesions, against the heads that it learned with."""

import copy

import pytest
import torch
from torch import nn

from med_transfer.backbones.networks.lesion_answers import KINDS, PARTS, LesionAnswers
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import torchvision_resnet
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.explanation import GradCAM
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble

CHANNELS = (64, 128, 256, 512)
CENTRE, SCALE = torch.arange(10.0).view(PARTS, 2), torch.arange(1.0, 11.0).view(PARTS, 2)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def heads():
    """As :class:`PaintedLesions` keeps them: a place in every map, presence and amount from the deepest."""
    torch.manual_seed(3)
    place = {f"place.{n}": nn.Conv3d(width, len(KINDS), 1) for n, width in enumerate(CHANNELS)}
    layers = {**place, "what": nn.Linear(CHANNELS[-1], 2 * len(KINDS))}
    return {f"{name}.{part}": v for name, layer in layers.items() for part, v in layer.state_dict().items()}


@pytest.fixture
def encoder(heads) -> SliceEncoder:
    torch.manual_seed(0)
    encoder = SliceEncoder(torchvision_resnet(18), AsPhotograph()).eval()
    encoder.pool_by("mean")
    answers = encoder.answer()
    answers.take_heads(heads)
    answers.centre.copy_(CENTRE)
    answers.scale.copy_(SCALE)
    return encoder


def parts_by_hand(maps, heads) -> torch.Tensor:
    """[batch, slice, part, kind], one slice after another."""
    batch, _, depth, _, _ = maps[0].shape
    found = torch.zeros(batch, depth, PARTS, 2)
    for scan in range(batch):
        for number in range(depth):
            for part, stage in enumerate((1, 2, 3)):
                weight, bias = heads[f"place.{stage}.weight"][:, :, 0, 0, 0], heads[f"place.{stage}.bias"]
                voxels = torch.einsum("kc,chw->khw", weight, maps[stage][scan, :, number])
                found[scan, number, part] = voxels.flatten(1).max(dim=1).values + bias
            said = heads["what.weight"] @ maps[3][scan, :, number].mean((1, 2)) + heads["what.bias"]
            found[scan, number, 3], found[scan, number, 4] = said[:2], said[2:]
    return found


@torch.no_grad()
def test_an_answer_is_the_mean_of_what_the_heads_say_each_on_its_own_scale(encoder, heads):
    maps = encoder(rand(2, 1, 3, 64, 80))
    expected = ((parts_by_hand(maps, heads) - CENTRE) / SCALE).mean(2)
    assert encoder.stage_channels == (*CHANNELS, 2)
    assert maps[-1].shape == (2, 2, 3, 1, 1)
    torch.testing.assert_close(maps[-1][..., 0, 0].transpose(1, 2), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder.pool(maps, (-1,)), expected.mean(1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_empty_slice_answers_nothing(encoder, heads):
    x = rand(1, 1, 5, 64, 64)
    x[0, :, [0, 4]] = 0.0
    maps = encoder(x)
    assert (maps[-1][0, :, [0, 4]] == 0).all()
    parts = parts_by_hand(maps, heads)[:, 1:4]
    said, shares = encoder.answer_parts(x)
    torch.testing.assert_close(said[:, 1:4], parts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shares, torch.tensor([[0, 1, 1, 1, 0]]) / 3)
    expected = ((parts - CENTRE) / SCALE).mean(2).mean(1)
    torch.testing.assert_close(encoder.pool(maps, (-1,)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_standardised_on_scans_they_answer_with_a_mean_of_zero_and_slices_with_a_spread_of_one(encoder):
    scans = [rand(1, 1, 3, 64, 64, seed=n) * (n + 1) for n in range(6)]
    scans[0][:, :, 2] = 0.0  # which does not count
    parts, shares = map(torch.cat, zip(*map(encoder.answer_parts, scans), strict=True))
    encoder.answers.standardise(parts, shares)
    maps = [encoder(scan) for scan in scans]
    features = torch.cat([encoder.pool(one, (-1,)) for one in maps])
    torch.testing.assert_close(features.mean(0), torch.zeros(2), rtol=0, atol=1e-4)
    of_slices = torch.cat([one[-1][0, :, :, 0, 0].T for one in maps])
    torch.testing.assert_close((of_slices.square() * shares.flatten()[:, None]).sum(0) / 6, torch.ones(2))
    weighed = torch.einsum("nspk,ns->npk", (parts - encoder.answers.centre) / encoder.answers.scale, shares)
    widths = weighed.std(0, correction=0)
    torch.testing.assert_close(widths, widths[:1].expand_as(widths))  # no part outweighs another
    answers = LesionAnswers(CHANNELS)
    answers.standardise(torch.ones(4, 3, PARTS, 2), torch.full((4, 3), 1 / 3))  # all equal: no division by zero
    assert (answers.scale > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "mean_max", "log_mean_exp", "top_k"])
def test_another_runtime_computes_the_same_answers(encoder, pooling):
    encoder.pool_by(pooling)
    x = rand(2, 1, 4, 64, 64)
    x[1, :, 0] = 0.0
    expected = encoder.pool(encoder(x), (-1,))
    elsewhere = copy.deepcopy(encoder).with_core(encoder.core((-1,)))
    torch.testing.assert_close(elsewhere.pool(elsewhere(x), (-1,)), expected, rtol=1e-5, atol=1e-5)


def test_its_stages_hold_every_tensor_once(encoder):
    held = [id(t) for stage in encoder.stages() for t in (*stage.parameters(), *stage.buffers())]
    assert sorted(held) == sorted(id(t) for t in (*encoder.parameters(), *encoder.buffers()))
    assert len(encoder.stages()) == len(encoder.stage_channels) + 1


def test_a_heat_map_follows_an_answer_back_to_its_place(encoder, heads):
    """Place of the third stage alone: the map is that of its head's logits, where they are above none."""
    answers, image = encoder.answers, rand(1, 3, 64, 64)
    answers.what.weight.data.zero_()
    for number in (0, 2):
        answers.place[number].weight.data.zero_()
    classifier = Classifier(encoder, 2)
    nn.init.eye_(classifier.head.weight)
    heat = GradCAM(stage=2)(Ensemble([classifier]).eval(), image, 0)
    with torch.no_grad():
        third = encoder(image[None])[2][0]
    wanted = torch.einsum("c,cdhw->dhw", heads["place.2.weight"][0, :, 0, 0, 0], third).relu()
    wanted = nn.functional.interpolate(wanted[None, None], size=(3, 64, 64), mode="trilinear")[0, 0].numpy()
    assert wanted.max() > 0
    assert heat.values / heat.values.max() == pytest.approx(wanted / wanted.max(), abs=1e-4)
    assert GradCAM()(Ensemble([classifier]).eval(), image, 0).stage < len(CHANNELS)
