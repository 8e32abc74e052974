"""Deletion and randomised weights distinguish a map that follows the network from one that does not."""

import copy
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from bright_and_dark import BRIGHT, DARK, both_findings, learned
from scipy import stats

from med_transfer.explanation import GradCAM, HeatMap, MapCheckSettings, Occlusion, explain
from med_transfer.explanation.explained import Explanation
from med_transfer.explanation.faithfulness import Deletion, deletion
from med_transfer.explanation.sanity import MAX_CORRELATION, randomised, rank_correlation, sanity
from med_transfer.model.ensemble import Ensemble

BRIGHT_AT, DARK_AT = (4, 4, 5), (11, 12, 11)


@dataclass(frozen=True)
class Edges:
    """An edge detector: it shows the scan, whatever the network has learned."""

    name: ClassVar[str] = "edges"

    def __call__(self, ensemble: Ensemble, image: torch.Tensor, class_index: int) -> HeatMap:
        values = np.linalg.norm(np.gradient(image[0].numpy()), axis=0)
        return HeatMap(values.astype(np.float32), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return learned()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return both_findings(BRIGHT_AT, DARK_AT)


@pytest.mark.parametrize("class_index", [BRIGHT, DARK])
@pytest.mark.parametrize("method", [GradCAM(), Occlusion((5, 5, 5), (4, 4, 4))], ids=["gradcam", "occlusion"])
def test_random_weights_change_the_map(ensemble, image, method, class_index):
    heat = method(ensemble, image, class_index)
    checked = sanity(ensemble, image, class_index, method, heat, MapCheckSettings(draws=3))
    assert checked is not None
    assert len(checked.correlations) == 3
    assert checked.passed
    assert checked.correlation <= MAX_CORRELATION


def test_an_edge_detector_is_found_out(ensemble, image):
    found = explain(ensemble, image, BRIGHT, Edges(), MapCheckSettings(draws=2))
    assert found.sanity is not None
    assert found.sanity.correlations == (1.0, 1.0)
    assert not found.sanity.passed
    assert "hardly depends on what the network learned: with random weights its rank correlation is 1.00" in " ".join(
        found.doubts
    )


def test_every_weight_is_drawn_anew_and_the_network_itself_stays(ensemble, image):
    before = copy.deepcopy(ensemble.state_dict())
    state = torch.random.get_rng_state()
    drawn, again, other = (randomised(ensemble, seed) for seed in (1, 1, 2))
    torch.testing.assert_close(torch.random.get_rng_state(), state)
    for name, tensor in ensemble.state_dict().items():
        torch.testing.assert_close(tensor, before[name])
    for name, parameter in drawn.named_parameters():
        torch.testing.assert_close(parameter, again.get_parameter(name))
        assert not torch.equal(parameter, ensemble.get_parameter(name)), name
        if not re.search(r"layers\.\d\.1", name):  # BatchNorm starts at 1 and 0 whatever the seed
            assert not torch.equal(parameter, other.get_parameter(name)), name
    statistics = drawn.get_buffer("member0.encoder.layers.0.1.running_mean")
    torch.testing.assert_close(statistics, torch.zeros_like(statistics))


def test_parameters_outside_of_layers_are_shuffled(ensemble):
    changed = copy.deepcopy(ensemble)
    own = torch.arange(50.0)
    changed.fold_models[0].encoder.register_parameter("position", torch.nn.Parameter(own.clone()))
    drawn = randomised(changed, 0).fold_models[0].encoder.get_parameter("position")
    assert not torch.equal(drawn, own)
    torch.testing.assert_close(drawn.sort().values, own)


def test_members_get_weights_of_their_own():
    pair = randomised(learned(2), 0)
    assert not torch.equal(*(member.head.weight for member in pair.fold_models))


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(0)
    one, other = rng.random((3, 4, 5)), rng.random((3, 4, 5))
    assert rank_correlation(one, other) == pytest.approx(stats.spearmanr(one.ravel(), other.ravel())[0])
    assert rank_correlation(one, np.exp(one)) == pytest.approx(1.0)
    assert rank_correlation(one, -one) == pytest.approx(-1.0)
    assert rank_correlation(one, one * 0) == 0.0


def test_hiding_what_the_map_shows_costs_more_than_hiding_anything_else(ensemble, image):
    found = explain(ensemble, image, BRIGHT, GradCAM(0), MapCheckSettings(draws=0))
    assert found.deletion is not None
    assert found.deletion.share == pytest.approx(0.05, abs=0.001)
    assert found.deletion.drop > 5 * abs(found.deletion.random_drop)
    assert found.deletion.as_large_at_random <= 0.1
    assert found.doubts == ()
    assert found.sanity is None


def test_a_map_of_the_wrong_place_is_found_out(ensemble, image):
    wrong = HeatMap(-np.linalg.norm(np.indices((16,) * 3).T - np.array([2, 14, 2]), axis=-1).T + 30, (1.0,) * 3)
    of_wrong = deletion(ensemble, image, BRIGHT, wrong)
    assert of_wrong is not None
    assert of_wrong.as_large_at_random > 0.1


@torch.no_grad()
def test_deletion_is_the_probability_without_the_strongest_voxels(ensemble, image):
    values = np.random.default_rng(0).random((16,) * 3).astype(np.float32)
    found = deletion(
        ensemble, image, DARK, HeatMap(values, (1.0,) * 3), MapCheckSettings(fill=0.5, share=0.2, n_random=3)
    )
    hidden = image.clone()
    hidden[0][torch.from_numpy(values >= np.quantile(values, 0.8))] = 0.5
    expected = (ensemble(image[None]) - ensemble(hidden[None]))[0, DARK].item()
    assert found is not None
    assert found.drop == pytest.approx(expected, abs=1e-5)
    assert len(found.random_drops) == 3


def test_on_a_processor_large_inputs_are_looked_at_one_by_one(ensemble, image, monkeypatch):
    heat, sizes = GradCAM()(ensemble, image, BRIGHT), []
    monkeypatch.setattr("med_transfer.model.features._VOXELS_ON_CPU", image[0].numel() + 1)
    with ensemble.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0]))):
        found = deletion(ensemble, image, BRIGHT, heat, MapCheckSettings(n_random=9))
    assert found is not None
    assert len(found.random_drops) == 9
    assert sizes == [1] * 11


def test_an_empty_map_is_said_to_be_empty(ensemble, image):
    class Nothing(Edges):
        def __call__(self, ensemble, image, class_index):
            return HeatMap(np.zeros(tuple(image.shape[1:]), np.float32), (1.0, 1.0, 1.0))

    found = explain(ensemble, image, DARK, Nothing())
    assert (found.deletion, found.sanity) == (None, None)
    assert found.doubts == ("Nothing in the map supports the class.",)
    with torch.no_grad():
        assert found.probability == pytest.approx(ensemble(image[None])[0, DARK].item())


def test_a_map_that_is_the_same_everywhere_shows_no_place(ensemble, image):
    """Of a stage with a single voxel: its ranks are all ties, and random weights cannot change them."""
    found = explain(ensemble, image[:, :8, :8, :8], BRIGHT, GradCAM(-1))
    assert found.heat.values.min() == found.heat.values.max() > 0
    assert (found.deletion, found.sanity) == (None, None)
    assert found.doubts == ("The map is the same everywhere: it shows no place.",)


def test_what_a_map_hides_is_compared_with_chance_in_words(ensemble, image):
    heat = GradCAM()(ensemble, image, BRIGHT)
    found = Explanation(heat, 0.9, Deletion(0.05, 0.02, (0.03, 0.03, 0.03, *(0.0,) * 17)), None)
    assert found.doubts == (
        "Hiding the map's strongest 5% does not lower the probability clearly more than hiding other regions: 15% of "
        "them lower it at least as much (at most 10% are expected).",
    )


def test_what_does_not_speak_for_the_class_is_not_hidden():
    """A map of a small place that the network does not look at is not helped by what fills the share up."""

    class FirstSlices(torch.nn.Module):
        fold_models = learned().fold_models  # by whose encoder a batch is divided

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x[:, 0, :2].mean(dim=(1, 2, 3))
            return torch.stack([1 - bright, bright], dim=1)

    image = torch.zeros(1, 16, 32, 32)
    image[:, :2] = 1
    values = np.zeros((16, 32, 32), np.float32)
    values[12, 10:14, 10:14] = 1
    found = deletion(FirstSlices(), image, 1, HeatMap(values, (1.0,) * 3))  # type: ignore[arg-type]
    assert found is not None
    assert found.share == 16 / values.size
    assert found.drop == 0
    values[values == 0] = -1
    against = deletion(FirstSlices(), image, 1, HeatMap(values, (1.0,) * 3))  # type: ignore[arg-type]
    assert against is not None
    assert against.drop == 0
