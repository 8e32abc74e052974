"""The stored statistics of the source: of the encoder as written, and a measure of the distance of other scans."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CPU, METHODS, STUDENT_INPUT, tiny_config, tiny_method, tiny_student, tiny_training

from med_transfer.backbones.weights.source_features import read_source_features
from med_transfer.backbones.weights.weight_files import hash_weights
from med_transfer.pretraining import SourceScans
from med_transfer.pretraining.methods.masked_autoencoding import MaskedAutoencoding
from med_transfer.pretraining.methods.method import PretrainingContext
from med_transfer.pretraining.source.source_gap import N_INPUTS, describe_input, extract_source_features
from med_transfer.selection.measures.discrepancy import mmd
from med_transfer.selection.measures.frechet import frechet_distance, gaussian_of

MAE = "masked_autoencoding"


@pytest.fixture(scope="module")
def encoder_file(chest, tmp_path_factory):
    """Trained on two of the three scans."""
    return tiny_training(MAE, chest, tmp_path_factory.mktemp("trained")).run()


def deepest_features(scans: SourceScans, encoder_file, folder):
    """[input, feature] of other scans, looked at in the same way."""
    method = MaskedAutoencoding(tiny_student(), PretrainingContext(tiny_config(MAE), STUDENT_INPUT, scans, None, CPU))
    folder.mkdir()
    path = extract_source_features(method, shutil.copy(encoder_file, folder / encoder_file.name))
    return read_source_features(path, sha256(encoder_file)).table((2,))


def sha256(path) -> str:
    with path.open("rb") as file:
        return hash_weights(file)


@pytest.mark.parametrize("name", METHODS)
def test_what_every_method_has_written_is_looked_at(chest, labelled, tmp_path, name):
    training = tiny_training(name, labelled if name in ("labels", "masks") else chest, tmp_path, steps=1, batch=4)
    path = extract_source_features(training.method, encoder := training.run())
    features = read_source_features(path, sha256(encoder))
    assert features.table((2,)).shape == (N_INPUTS, 16)


def test_scans_kept_out_lie_nearer_than_scans_of_another_contrast(chest, encoder_file, tmp_path):
    training, kept_out = chest.split(1)
    negative = SourceScans(tuple(replace(one, voxels=np.int16(-900) - one.voxels) for one in kept_out.scans))
    known, near, far = (
        deepest_features(scans, encoder_file, tmp_path / name)
        for name, scans in (("known", training), ("near", kept_out), ("far", negative))
    )
    assert known.shape == (N_INPUTS, 16)
    near_gap, far_gap = (frechet_distance(gaussian_of(known), gaussian_of(one)) for one in (near, far))
    assert 3 * near_gap < far_gap
    assert 3 * mmd(known, near, 0).squared < mmd(known, far, 0).squared


def test_inputs_are_those_of_the_training_scans_as_they_are(chest):
    """No chance but that of the place and the extent, and the training's own goes on undisturbed."""
    changes = {"stretch": 0.0, "rotation_degrees": (0, 0, 0), "scans_per_batch": 2, "shape": (8, 16, 16)}
    method = tiny_method(MAE, chest, crops=changes, views={"noise": 1.0, "shift": 1.0})
    before = method.crops.random.get_state()
    (x, scans), *_ = method.plain_inputs(8, seed=4)
    again = tiny_method(MAE, chest, crops=changes).sampler(method.context.training, seed=4).batch(8)
    torch.testing.assert_close(x, method.windowed(again.hu, degraded=False))
    assert scans.tolist() == again.scan.tolist()
    assert method.crops.random.get_state().equal(before)
    assert method.crops.config == method.config.crops
    turned = tiny_method(
        MAE, chest, crops=changes | {"rotation_degrees": (90, 90, 90), "flip": (1, 1, 1), "stretch": 1}
    )
    torch.testing.assert_close(next(turned.plain_inputs(8, seed=4))[0], x)


def test_what_is_painted_belongs_to_the_source(chest):
    painted, plain = tiny_method("painted_nodules", chest), tiny_method("contrastive", chest)
    words = "crops of 28 to 90 mm as 8 x 8 x 8 voxels"
    assert describe_input(plain) == words
    assert describe_input(painted) == f"{words}, lung and nodules painted in"
    (with_scenes, scans), (bare, same) = next(painted.plain_inputs(8)), next(plain.plain_inputs(8))
    assert scans.tolist() == same.tolist()
    assert not with_scenes.equal(bare)


def test_whole_scans_are_said_to_be_whole(labelled):
    method = tiny_method("labels", labelled, supervised={"target": "label", "region": "whole"})
    assert describe_input(method) == "whole scans as 8 x 8 x 8 voxels"
    for name, changes in (("contrastive", {}), ("masks", {"target": "mask"})):  # for which the region means nothing
        method = tiny_method(name, labelled, supervised={"region": "whole"} | changes)
        assert describe_input(method) == "crops of 28 to 90 mm as 8 x 8 x 8 voxels"


def test_lesions_are_painted_into_whole_scans_and_so_it_is_said(chest):
    assert describe_input(tiny_method("painted_lesions", chest)) == "whole scans as 8 x 8 x 8 voxels"
    crops = {"shape": (8, 16, 16), "slab": 5}
    method = tiny_method("painted_lesions", chest, crops=crops)
    assert describe_input(method) == "5 slices of whole scans as 8 x 8 x 8 voxels"
