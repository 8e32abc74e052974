"""The file of source features: what is written is read, and a file for other weights is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from med_transfer.backbones.weights.source_features import (
    LowRankGaussian,
    SourceFeatures,
    read_source_features,
    source_features_path,
    write_source_features,
)
from med_transfer.errors import BackboneError, OutputError

SHA = "a" * 64


def source(seed=0):
    rng = np.random.default_rng(seed)
    components = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    gaussian = LowRankGaussian(rng.normal(size=6), components, np.array([3.0, 2.0]), 0.5)
    return SourceFeatures(SHA, 40, {(3,): rng.normal(size=(40, 8))}, {(2, 3): gaussian})


def test_what_is_written_is_read(tmp_path):
    written, path = source(), tmp_path / "encoder.source.safetensors"
    write_source_features(path, written)
    found = read_source_features(path, SHA)
    assert (found.n_scans, found.weights_sha256) == (40, SHA)
    assert found.features[3,] == pytest.approx(written.features[3,], abs=1e-6)
    gaussian, expected = found.gaussians[2, 3], written.gaussians[2, 3]
    assert gaussian.components == pytest.approx(expected.components, abs=1e-6)
    assert (gaussian.mean, gaussian.variances) == (pytest.approx(expected.mean), pytest.approx(expected.variances))
    assert gaussian.residual == 0.5
    assert gaussian.total_variance == pytest.approx(3 + 2 + 4 * 0.5)


def test_joined_stages_are_those_of_the_same_inputs(tmp_path):
    tables = {(0,): np.ones((5, 2)), (1,): np.full((5, 3), 2.0), (2,): np.zeros((4, 3))}
    given = SourceFeatures(SHA, 5, tables, input="crops of 20 mm")
    write_source_features(tmp_path / "f.safetensors", given)
    found = read_source_features(tmp_path / "f.safetensors", SHA)
    assert found.input == "crops of 20 mm"
    assert found.table((1, 0)).tolist() == [[2, 2, 2, 1, 1]] * 5
    assert found.table((2,)).shape == (4, 3)
    assert (found.table((1, 2)), found.table((3,)), found.table((0, 3))) == (None, None, None)
    assert source().table((2, 3)) is None  # a Gaussian is no table


def test_a_gaussian_without_components_is_a_ball(tmp_path):
    ball = LowRankGaussian(np.zeros(3), np.zeros((0, 3)), np.zeros(0), 2.0)
    write_source_features(tmp_path / "f.safetensors", SourceFeatures(SHA, 5, gaussians={(0,): ball}))
    assert read_source_features(tmp_path / "f.safetensors", SHA).gaussians[0,].total_variance == 6


@pytest.mark.parametrize("name", ["encoder.safetensors", "resnet_18_23dataset.pth", "astra"])
def test_it_stands_beside_the_weights(name):
    path = source_features_path(Path("/weights") / name)
    assert path.parent == Path("/weights")
    assert path.name == f"{name.removesuffix('.safetensors')}.source.safetensors"


def test_other_weights_are_refused(tmp_path):
    write_source_features(tmp_path / "f.safetensors", source())
    with pytest.raises(
        BackboneError, match=r"made with other weights \(SHA-256 aaaaaaaaaaaa\.\.\.\); expected bbbbbbbbbbbb"
    ):
        read_source_features(tmp_path / "f.safetensors", "b" * 64)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "f.safetensors"
    save_file({"conv1.weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(BackboneError, match="not a file of source features; expected format 'med_transfer source"):
        read_source_features(path, SHA)
    path.write_bytes(b"not safetensors")
    with pytest.raises(BackboneError, match=r"cannot be read .*; expected a file of source features"):
        read_source_features(path, SHA)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"3/mean": np.zeros(4, np.float32)}, "components"),
        ({"deep/features": np.zeros((2, 4), np.float32)}, "invalid literal"),
        ({"3/features": np.zeros(4, np.float32)}, "1 axes instead of 2"),
        (
            {
                f"3/{part}": np.zeros(shape, np.float32)
                for part, shape in (("mean", 4), ("components", (2, 5)), ("variances", 2), ("residual", ()))
            },
            r"components of shape \[2, 5\] for layer 3",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, tensors, reason):
    path = tmp_path / "f.safetensors"
    metadata = {"format": "med_transfer source features 1", "weights_sha256": SHA, "n_scans": "4"}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(BackboneError, match=f"damaged .*{reason}.*expected STAGES/features, or mean"):
        read_source_features(path, SHA)


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_source_features(tmp_path / "file" / "f.safetensors", source())
