"""Crops: geometry against scipy, chosen places, limits, seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from med_transfer.errors import UnusableVoxels
from med_transfer.pretraining import CropConfig, SourceScan, SourceScans
from med_transfer.pretraining.crops import CropSampler, interpolate, rotation_matrices

CPU = torch.device("cpu")
STRAIGHT = torch.eye(3)[None]


def one_source(voxels: np.ndarray, spacing=(3.0, 1.5, 1.5)) -> SourceScans:
    return SourceScans((SourceScan(voxels.astype(np.int16), spacing, "a" * 64),))


def test_rotation_matrices_agree_with_scipy():
    angles = torch.tensor([[0.3, -0.2, 0.5]])
    ours = rotation_matrices(angles)[0].numpy()
    np.testing.assert_allclose(ours @ ours.T, np.eye(3), atol=1e-6)
    # scipy acts on (x, y, z); ours on (z, y, x)
    about_z, about_y, about_x = (Rotation.from_rotvec(v).as_matrix() for v in ([0, 0, 0.3], [0, -0.2, 0], [0.5, 0, 0]))
    expected = (about_z @ about_y @ about_x)[::-1, ::-1]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_interpolation_agrees_with_scipy():
    rng = np.random.default_rng(0)
    voxels = rng.integers(-1000, 1000, (12, 20, 18)).astype(np.int16)
    spacing, centre, angles = (
        torch.tensor([3.0, 1.5, 1.0]),
        torch.tensor([[16.0, 14.0, 9.0]]),
        torch.tensor([[0.2, 0.1, -0.3]]),
    )
    axes = rotation_matrices(angles) * torch.tensor([9.0, 6.0, 4.0])
    ours = interpolate(torch.from_numpy(voxels), spacing, centre, axes, (4, 6, 8), torch.ones(1, 3))[0, 0].numpy()
    steps = [(np.arange(n) + 0.5) * 2 / n - 1 for n in (4, 6, 8)]
    local = np.stack(np.meshgrid(*steps, indexing="ij"))
    position_mm = np.einsum("ab,b...->a...", axes[0].numpy(), local) + centre[0].numpy()[:, None, None, None]
    index = position_mm / spacing.numpy()[:, None, None, None]
    expected = ndimage.map_coordinates(voxels.astype(float), index, order=1, mode="nearest")
    np.testing.assert_allclose(ours, expected, atol=0.05)


def test_a_cut_repeats_the_last_slice():
    voxels = torch.arange(40, dtype=torch.int16)[:, None, None].expand(40, 10, 10)
    axes = torch.diag(torch.tensor([16.0, 4.0, 4.0]))[None]
    limits = torch.tensor([[0.25, 1.0, 1.0]])
    crop = interpolate(voxels, torch.ones(3), torch.tensor([[20.0, 5.0, 5.0]]), axes, (32, 4, 4), limits)[0, 0, :, 0, 0]
    assert torch.allclose(crop[:12], torch.tensor(16.0))
    assert torch.allclose(crop[-12:], torch.tensor(24.0))
    assert torch.all(crop[13:19].diff() > 0.9)


def test_the_same_seed_gives_the_same_crops_and_a_restored_state_goes_on(chest):
    config = CropConfig(shape=(8, 16, 16), scans_per_batch=2)
    first, second = (CropSampler(chest, config, CPU, seed=3) for _ in range(2))
    a = first.batch(6)
    assert torch.equal(a.hu, second.batch(6).hu)
    assert a.hu.shape == (6, 1, 8, 16, 16)
    assert a.size_mm.shape == (6, 3)
    state = first.state()
    expected = first.batch(6).hu
    second.restore(state)
    assert torch.equal(second.batch(6).hu, expected)


def test_lung_is_preferred_and_found(chest):
    config = CropConfig(shape=(8, 16, 16), lung=0.5, shift_mm=1e-6, cut=(0.0, 0.0), size_mm=(10, 11), large=0.0)
    crops = CropSampler(chest, config, CPU, seed=0).batch(20)
    assert crops.lung.tolist() == [True] * 10 + [False] * 10
    lung = ((crops.hu > -930) & (crops.hu < -600)).float().mean((1, 2, 3, 4))
    assert lung[:10].mean() > 0.4 > lung[10:].mean()


def test_a_table_beside_the_body_is_no_place_for_a_crop():
    voxels = np.full((20, 80, 80), -1000.0)
    voxels[:, 5:45, 20:60] = 40 + 60 * np.random.default_rng(0).standard_normal((20, 40, 40))
    voxels[:, 72:74] = 300
    voxels[:, 74:] = -850
    sampler = CropSampler(one_source(voxels), CropConfig(shape=(4, 4, 4)), CPU, seed=0)
    rows = torch.cat([r.tissue for r in sampler._with_tissue])[:, 1]
    assert len(rows)
    assert rows.max() < 50
    assert not sampler._with_lung


def test_scans_of_air_are_refused():
    with pytest.raises(UnusableVoxels, match="nothing but air or uniform matter"):
        CropSampler(one_source(np.full((10, 40, 40), -1000)), CropConfig(), CPU, seed=0)
