"""A network's features of a scan, and that they are computed once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from med_transfer.backbones import Encoder, find_backbone, load_backbone
from med_transfer.cohorts import Cohort
from med_transfer.errors import GeometryRejected, NotAScan, WeightsNotFound
from med_transfer.model.classifier import Classifier
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.selection.candidates import Network
from med_transfer.selection.features import FeatureLibrary, extract
from med_transfer.selection.weights_check import agreement

SMALL = PreprocessingConfig(shape=(16, 16, 16), spacing_mm=(2, 2, 2), region="roi")


class TwoMaps(Encoder):
    """Channels that can be worked out in the head: x and 2 x, then their sum; no normalisation."""

    stage_channels = (2, 1)

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 2, 1, bias=False), nn.Conv3d(2, 1, 1, bias=False)
        nn.init.ones_(self.second.weight)
        self.first.weight.data = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1, 1)

    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first)]


def test_features_are_means_over_space_and_cost_is_counted():
    image = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    found = extract(TwoMaps(), image, compare=True)
    assert [stage.tolist() for stage in found.stages] == [[3.5, 7.0], [10.5]]
    assert found.activations_mib == (2 * 8 + 8) * 4 / 2**20
    assert found.agreement is None  # it remembers nothing
    assert found.seconds > 0


def test_features_are_what_the_classifier_reads():
    encoder = load_backbone("resnet18-w8", seed=3).encoder.eval()
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    found = extract(encoder, image)
    with torch.inference_mode():
        expected = Classifier(encoder, 2, pooled_stages=(1, 3)).eval().features(image)[0].numpy()
    assert np.concatenate([found.stages[1], found.stages[3]]) == pytest.approx(expected, abs=1e-5)


def test_watching_changes_no_feature_and_agrees_with_verification():
    encoder = load_backbone("resnet18-w8", seed=3).encoder.eval()
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    plain, seen = extract(encoder, image), extract(encoder, image, compare=True)
    assert all(np.array_equal(a, b) for a, b in zip(plain.stages, seen.stages, strict=True))
    assert (plain.agreement, seen.seconds) == (None, None)
    assert dataclasses.astuple(seen.agreement) == pytest.approx(dataclasses.astuple(agreement(encoder, [image])))
    assert seen.agreement.layers == 20


def test_a_network_of_slices_is_watched_too():
    image = torch.randn(1, 1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    found = extract(load_backbone("slices-resnet18", scratch=True).encoder.eval(), image, compare=True)
    assert found.agreement.layers == 20


# The library


@pytest.fixture
def own(other_weights, tmp_path) -> Path:
    """Weights that can be taken away, so that whoever looks twice fails."""
    return Path(shutil.copy(other_weights, tmp_path / "own.safetensors"))


@pytest.fixture
def network(own) -> Network:
    return Network(
        "resnet18-w8 own", find_backbone("resnet18-w8"), None, lambda: load_backbone("resnet18-w8", own).encoder
    )


@pytest.fixture
def case(target_csv):
    return Cohort.read(target_csv).cases[0]


def taken_away(network: Network, own: Path) -> Network:
    own.unlink()
    with pytest.raises(WeightsNotFound):
        network.load()
    return network


def same(first, second) -> bool:
    (one,), (other,) = first[1], second[1]
    return all(np.array_equal(a, b) for a, b in zip(one.stages, other.stages, strict=True))


def test_a_second_look_needs_neither_scan_nor_weights(network, own, case, tmp_path):
    first = FeatureLibrary(tmp_path / "cache", SMALL).look_up(case, [network], compare=True)
    again = FeatureLibrary(tmp_path / "cache", SMALL).look_up(case, [taken_away(network, own)])
    assert same(first, again)
    assert first[1][0].agreement == again[1][0].agreement is not None
    assert first[0] == again[0]


def test_what_is_damaged_is_worked_out_again_and_no_scan_is_left_out(network, case, tmp_path):
    first = FeatureLibrary(tmp_path, SMALL).look_up(case, [network])
    for file in [*(tmp_path / "scans").iterdir(), *(tmp_path / "features").iterdir()]:
        file.write_bytes(b"<html></html>")
        again = FeatureLibrary(tmp_path, SMALL).look_up(case, [network])
        assert same(first, again)
        assert first[0] == again[0]
        assert file.read_bytes() != b"<html></html>"


def test_a_renamed_scan_is_read_but_passes_no_network(network, own, case, tmp_path):
    library = FeatureLibrary(tmp_path / "cache", SMALL)
    first = library.look_up(case, [network])
    renamed = tmp_path / "renamed.nii.gz"
    shutil.copy(case.path, renamed)
    moved = dataclasses.replace(case, path=renamed, scan=renamed.name)
    again = FeatureLibrary(tmp_path / "cache", SMALL).look_up(moved, [taken_away(network, own)])
    assert same(first, again)


def test_other_regions_inputs_and_weights_are_other_features(network, case, tmp_path):
    first = FeatureLibrary(tmp_path / "cache", SMALL).look_up(case, [network])
    x, y, z = case.roi_centre_mm
    beside = dataclasses.replace(case, roi_centre_mm=(x + 8, y, z))
    other_window = SMALL.model_copy(update={"window_hu": (-500.0, 500.0)})
    scratch = lambda: load_backbone("resnet18-w8", scratch=True).encoder  # noqa: E731
    other_weights = dataclasses.replace(network, key="resnet18-w8 random", seed=0, build=scratch)
    for changed in (
        FeatureLibrary(tmp_path / "cache", SMALL).look_up(beside, [network]),
        FeatureLibrary(tmp_path / "cache", other_window).look_up(case, [network]),
        FeatureLibrary(tmp_path / "cache", SMALL).look_up(case, [other_weights]),
    ):
        assert not same(first, changed)
        assert changed[0].content_hashes == first[0].content_hashes
    assert len(list((tmp_path / "cache/features").iterdir())) == 4


def test_a_scan_that_changed_is_looked_at_again(network, case, target_csv, tmp_path):
    moved = dataclasses.replace(case, path=Path(shutil.copy(case.path, tmp_path / "scan.nii.gz")))
    library = FeatureLibrary(tmp_path / "cache", SMALL)
    library.look_up(moved, [network])
    moved.path.write_bytes(b"no scan any more")
    with pytest.raises((NotAScan, GeometryRejected)):
        library.look_up(moved, [network])
