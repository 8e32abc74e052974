"""Grad-CAM and occlusion find what a trained network looks at, and agree with MONAI and with the definition."""

import copy

import numpy as np
import pytest
import torch
from bright_and_dark import BRIGHT, DARK, RADIUS, BallEncoder, ball, both_findings, learned
from monai.visualize.class_activation_maps import GradCAM as MonaiGradCAM
from monai.visualize.occlusion_sensitivity import OcclusionSensitivity
from torch import nn

from med_transfer.backbones import Encoder
from med_transfer.backbones.networks.photograph import AsPhotograph
from med_transfer.backbones.networks.planar import torchvision_resnet
from med_transfer.backbones.networks.slices import SliceEncoder
from med_transfer.backbones.networks.tiles import TileEncoder
from med_transfer.errors import ConfigError
from med_transfer.explanation import GradCAM, Occlusion
from med_transfer.explanation.heat import HeatMap, fill_boxes
from med_transfer.model.classifier import Classifier
from med_transfer.model.ensemble import Ensemble

PLACES = {BRIGHT: (4, 4, 5), DARK: (11, 12, 11)}
WINDOW = Occlusion((5, 5, 5), (2, 2, 2))


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return learned()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return both_findings(PLACES[BRIGHT], PLACES[DARK])


@pytest.mark.parametrize("class_index", [BRIGHT, DARK])
@pytest.mark.parametrize("method", [GradCAM(), GradCAM(stage=0), WINDOW], ids=["gradcam", "gradcam stage 0", "window"])
def test_each_finding_has_its_map_where_it_lies(ensemble, image, method, class_index):
    heat = method(ensemble, image, class_index)
    assert heat.values.shape == image.shape[1:]
    reach = RADIUS + max(heat.element_voxels)  # to the map's precision
    assert np.linalg.norm(np.array(heat.peak) - PLACES[class_index]) <= reach
    other = BRIGHT + DARK - class_index
    assert heat.values[ball(PLACES[class_index])].mean() > 3 * heat.values[ball(PLACES[other])].mean()


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_gradcam_is_monais(ensemble, image, stage):
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.member = copy.deepcopy(ensemble.fold_models[0])

        def forward(self, x):
            return self.member(x)

    reference = MonaiGradCAM(Logits().eval(), f"member.encoder.layers.{stage}", postprocessing=lambda x: x)
    expected = reference(image[None], class_idx=DARK)[0, 0].detach()
    found = GradCAM(stage)(ensemble, image, DARK)
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)
    assert found.stage == stage
    assert found.element_voxels == (2.0 ** (stage + 1),) * 3


def test_gradcam_of_an_ensemble_is_the_mean_of_its_members(image):
    pair = learned(2)
    alone = [GradCAM(1)(Ensemble([one], multilabel=True).eval(), image, BRIGHT).values for one in pair.fold_models]
    np.testing.assert_allclose(GradCAM(1)(pair, image, BRIGHT).values, np.mean(alone, axis=0), atol=1e-6)


def test_gradcam_passes_an_encoder_that_is_shared_once(image):
    pair = learned(2)
    one, other = pair.fold_models
    other.encoder = one.encoder
    alone = [GradCAM(1)(pair.alone(number), image, BRIGHT).values for number in range(2)]
    passed = []
    with one.encoder.register_forward_hook(lambda *_: passed.append(1)):
        together = GradCAM(1)(pair, image, BRIGHT).values
    assert passed == [1]
    assert not np.array_equal(*alone)  # each has a head of its own
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # inside MONAI
def test_occlusion_is_the_probability_lost_at_each_place(ensemble, image):
    """MONAI keeps a window's probability on all of its voxels; ours belongs to its middle. Windows side by side."""
    heat = Occlusion((5, 5, 5), (5, 5, 5), fill=0.25)(ensemble, image[:, :15, :15, :15], BRIGHT)
    reference = OcclusionSensitivity(ensemble, 5, mode=0.25, overlap=0.0, activate=False, verbose=False)
    probability = reference(image[None, :, :15, :15, :15])[0][0, BRIGHT]
    with torch.no_grad():
        whole = ensemble(image[None, :, :15, :15, :15])[0, BRIGHT]
    middles = (slice(2, None, 5),) * 3
    np.testing.assert_allclose(heat.values[middles], (whole - probability)[middles], atol=1e-5)


@torch.no_grad()
def test_occlusion_hides_each_channel_by_its_own_mean_and_interpolates_between_places():
    torch.manual_seed(0)
    pair = Ensemble([Classifier(BallEncoder(channels=2), 3)]).eval()
    image = torch.randn(2, 9, 9, 9) + torch.tensor([0.0, 50.0])[:, None, None, None]
    heat = Occlusion((3, 3, 3), (3, 3, 3))(pair, image, 2)
    hidden = image.clone()
    for channel in hidden:
        channel[3:6, 0:3, 6:9] = channel[3:6, 0:3, 6:9].mean()
    drop = (pair(image[None]) - pair(hidden[None]))[0, 2]
    assert heat.values[4, 1, 7] == pytest.approx(drop.item(), abs=1e-6)
    assert heat.values[4, 0, 8] == heat.values[4, 1, 7]  # nothing was tried further out
    between = (2 * heat.values[1, 1, 1] + heat.values[4, 1, 1]) / 3
    assert heat.values[2, 1, 1] == pytest.approx(between, abs=1e-6)


def test_large_inputs_are_hidden_in_one_by_one(ensemble, image, monkeypatch):
    whole, sizes = WINDOW(ensemble, image, BRIGHT).values, []
    monkeypatch.setattr("med_transfer.model.features._VOXELS_ON_CPU", image[0].numel() + 1)
    with ensemble.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0]))):
        np.testing.assert_allclose(WINDOW(ensemble, image, BRIGHT).values, whole, atol=1e-5)
    assert set(sizes) == {1}


def test_occlusion_tells_how_far_it_is(ensemble, image):
    told = []
    method = Occlusion((8, 8, 8), (4, 4, 4), progress=lambda stage, done, total: told.append((done, total)))
    method(ensemble, image, BRIGHT)
    assert told == [(16, 27), (27, 27)]


def test_a_window_in_mm():
    assert Occlusion.in_mm((20, 40, 40), (3.0, 1.5, 1.0), 6.0, 3.0) == Occlusion((2, 4, 6), (1, 2, 3))
    assert Occlusion.in_mm((24, 24, 24), (1.5, 1.5, 1.5)) == Occlusion((6, 6, 6), (3, 3, 3))
    with pytest.raises(ConfigError, match=r"a window of 61 mm; expected above 0 and at most 40 mm"):
        Occlusion.in_mm((20, 40, 40), (3.0, 1.5, 1.0), 61)
    with pytest.raises(ConfigError, match=r"a stride of 7 mm; expected above 0 and at most 6 mm"):
        Occlusion.in_mm((20, 40, 40), (3.0, 1.5, 1.0), 6, 7)
    for nothing in (0, -0.5):
        with pytest.raises(ConfigError, match=rf"a window of {nothing} mm; expected above 0 and at most 40 mm"):
            Occlusion.in_mm((20, 40, 40), (3.0, 1.5, 1.0), nothing)
        with pytest.raises(ConfigError, match=rf"a stride of {nothing} mm; expected above 0 and at most 6 mm"):
            Occlusion.in_mm((20, 40, 40), (3.0, 1.5, 1.0), 6, nothing)


def test_the_deepest_stage_that_is_fine_enough_is_read(image):
    torch.manual_seed(0)
    maps = {16: 1, 32: 2, 8: 0, 4: 0}  # edge of the input: stage with at least 4 voxels, or the finest
    ensemble = Ensemble([Classifier(BallEncoder(), 2)]).eval()
    for edge, stage in maps.items():
        assert GradCAM()(ensemble, torch.randn(1, edge, edge, edge), 0).stage == stage


def test_a_stage_that_does_not_lead_to_the_class_is_refused(image):
    shallow = Ensemble([Classifier(BallEncoder(), 2, pooled_stages=(1,))]).eval()
    assert GradCAM()(shallow, image, 0).stage == 1
    with pytest.raises(ConfigError, match=r"Grad-CAM: stage -1: the class does not depend on it; expected one of 0, 1"):
        GradCAM(-1)(shallow, image, 0)
    with pytest.raises(ConfigError, match="stage 7: the class does not depend on it"):
        GradCAM(7)(shallow, image, 0)


def test_frozen_networks_and_inputs_of_inference_mode_are_explained(ensemble, image):
    frozen = copy.deepcopy(ensemble).requires_grad_(False)
    with torch.inference_mode():
        seen = image * 1.0
    expected = GradCAM()(ensemble, image, DARK)
    np.testing.assert_array_equal(GradCAM()(frozen, seen, DARK).values, expected.values)
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_a_network_of_slices_is_explained_through_its_attention():
    """Its maps are views that no deeper stage reads, so only stages that the head pools can be asked for."""
    torch.manual_seed(0)
    encoder = SliceEncoder(torchvision_resnet(18), AsPhotograph())
    nn.init.normal_(encoder.attention.score.weight)
    ensemble = Ensemble([Classifier(encoder, 2)]).eval()
    heat = GradCAM()(ensemble, torch.rand(1, 4, 64, 64), 0)
    assert heat.element_voxels == (1.0, 32.0, 32.0)
    with pytest.raises(ConfigError, match="expected one of 3 of this network"):
        GradCAM(0)(ensemble, torch.rand(1, 4, 64, 64), 0)


class Lamps(Encoder):
    """Two maps of one channel: the voxels, twice."""

    stage_channels = (1, 1)

    def stages(self):
        return [nn.Identity()] * 3


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_a_tile_has_its_value_where_it_lies(overlap):
    """Tiles that overlap are no even shares of the input: their middles lie further from its edges."""
    encoder = TileEncoder(Lamps(), (4, 8, 8), overlap)
    ensemble = Ensemble([Classifier(encoder, 2, pooled_stages=(0, 1))]).eval()
    nn.init.ones_(ensemble.fold_models[0].head.weight)
    image = torch.zeros(1, 4, 8, 20)
    image[..., :3] = 1.0  # in the first tile alone
    boxes = encoder.cuts((4, 8, 20))
    heat = GradCAM()(ensemble, image, 0)
    alone = slice(0, boxes[1][2].start)
    np.testing.assert_array_equal(heat.values[..., alone], heat.values.max())
    assert not heat.values[..., 8:].any()
    between = heat.values[0, 0, boxes[1][2].start]  # two tiles or three, of which one shows the lamp
    n = sum(box[2].start <= boxes[1][2].start < box[2].stop for box in boxes)
    assert between == pytest.approx(heat.values.max() / n)
    assert heat.element_voxels == (4.0, 8.0, 8.0)
    assert heat.stage == 1


def test_where_boxes_overlap_the_map_is_their_mean():
    boxes = [(slice(0, 1), slice(0, 2), slice(first, first + 2)) for first in (0, 1)]
    assert fill_boxes(np.array([3.0, 5.0]), boxes, (1, 2, 3)).tolist() == [[[3, 4, 5], [3, 4, 5]]]


def test_a_network_that_sees_nothing_gives_an_empty_map(image):
    class Blind(Encoder):
        stage_channels = (2,)

        def stages(self):
            return [nn.Identity(), nn.Identity()]

        def forward(self, x):
            return [x.expand(-1, 2, -1, -1, -1) * 0]

    torch.manual_seed(0)
    blind = Ensemble([Classifier(Blind(), 2)]).eval()
    assert GradCAM()(blind, image, 0).empty
    assert WINDOW(blind, image, 0).empty


@pytest.mark.parametrize(
    ("strongest", "place"), [(np.s_[2], (2, 4, 5)), (np.s_[1:4, 2:5, 0:3], (2, 3, 1)), (np.s_[0, 1, 2], (0, 1, 2))]
)
def test_a_slice_or_tile_that_speaks_most_is_shown_in_its_middle(strongest, place):
    values = np.zeros((5, 9, 11), np.float32)
    values[strongest] = 2.0
    assert HeatMap(values, (1.0, 1.0, 1.0)).peak == place


def test_of_two_slices_that_speak_as_much_one_is_shown_and_not_what_lies_between():
    values = np.zeros((7, 3, 3), np.float32)
    values[[1, 5]] = 1.0
    depth, height, width = HeatMap(values, (1.0, 1.0, 1.0)).peak
    assert depth in (1, 5)
    assert (height, width) == (1, 1)
