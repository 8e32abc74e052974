"""Crops: geometry against scipy, sampled positions, limits, seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from med_transfer.errors import UnusableVoxels
from med_transfer.pretraining import CropConfig, SourceScan, SourceScans
from med_transfer.pretraining.source.crop_centres import find_crop_centres
from med_transfer.pretraining.source.crops import CENTRE, MASK, WHOLE, CropSampler
from med_transfer.pretraining.source.interpolation import interpolate, rotation_matrices

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
    states = first.random.get_state(), first.choice.get_state()
    expected = first.batch(6).hu
    second.random.set_state(states[0])
    second.choice.set_state(states[1])
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
    centres = find_crop_centres(voxels.astype(np.int16), (3.0, 1.5, 1.5))
    assert len(centres.tissue)
    assert centres.tissue[:, 1].max() < 50
    assert not len(centres.lung)


def test_scans_of_air_are_refused():
    with pytest.raises(UnusableVoxels, match="nothing but air or uniform matter"):
        CropSampler(one_source(np.full((10, 40, 40), -1000)), CropConfig(), CPU, seed=0)


@pytest.mark.parametrize("with_masks", [False, True])
def test_crops_read_from_disk_are_those_of_a_source_in_memory(labelled, tmp_path, with_masks):
    config = CropConfig(shape=(8, 16, 16), size_mm=(20, 90), shift_mm=40.0, cut=(0.5, 0.5))  # some reach far outside
    mapped = []
    for number, scan in enumerate(labelled.scans):
        np.save(tmp_path / f"{number}.npy", scan.voxels)
        mapped.append(replace(scan, voxels=np.load(tmp_path / f"{number}.npy", mmap_mode="r")))
    streamed = CropSampler(SourceScans(tuple(mapped)), config.model_copy(update={"resident_gib": 0}), CPU, seed=0)
    resident = CropSampler(labelled, config, CPU, seed=0)
    ours, theirs = (sampler.batch(40, with_masks) for sampler in (streamed, resident))
    torch.testing.assert_close(ours.hu, theirs.hu, rtol=0, atol=0.2)  # HU; positions in mm are rounded differently
    assert torch.equal(ours.scan, theirs.scan)
    if with_masks:
        torch.testing.assert_close(ours.mask, theirs.mask, rtol=0, atol=1e-3)


def test_the_mask_is_cut_with_its_crop(labelled):
    config = CropConfig(shape=(16, 16, 16), size_mm=(40, 60))
    crops = CropSampler(labelled, config, CPU, seed=0, mixture={MASK: 1.0}).batch(24, with_masks=True)
    solid = torch.tensor([labelled.scans[n].label == "solid" for n in crops.scan])
    inside = crops.mask > 0.99
    assert inside.flatten(1).any(1).all()
    hu = torch.where(inside, crops.hu, torch.nan).flatten(1).nanmean(1)
    torch.testing.assert_close(hu, torch.where(solid, 40.0, -550.0), rtol=0, atol=2.0)


def test_a_crop_around_a_region_and_one_of_the_whole_scan(labelled):
    straight = {"rotation_degrees": (0, 0, 0), "shift_mm": 1e-6, "stretch": 0.0, "large": 0.0}
    config = CropConfig(shape=(8, 8, 8), size_mm=(30, 30.001), **straight)
    around = CropSampler(labelled, config, CPU, seed=0, mixture={CENTRE: 1.0}).batch(8)
    for centre_mm, number in zip(around.centre_mm, around.scan, strict=True):
        expected = torch.tensor(labelled.scans[number].centre) * torch.tensor([3.0, 2.0, 2.0])
        torch.testing.assert_close(centre_mm, expected, rtol=0, atol=1e-3)
    whole = CropSampler(labelled, config, CPU, seed=0, mixture={WHOLE: 1.0}).batch(4)
    torch.testing.assert_close(whole.size_mm, torch.tensor([72.0, 160.0, 160.0]).expand(4, 3))


def test_weights_decide_how_often_a_scan_is_drawn(labelled):
    weights = [1.0] + [0.0] * 7
    crops = CropSampler(labelled, CropConfig(shape=(4, 4, 4)), CPU, 0, {CENTRE: 1.0}, weights).batch(20)
    assert set(crops.scan.tolist()) == {0}


def test_a_pair_overlaps_and_keeps_left_and_right(chest):
    config = CropConfig(shape=(8, 16, 16), stretch=0.1)
    first, second = CropSampler(chest, config, CPU, seed=0).pairs(40, shift=0.25, stretch=0.05)
    apart = (first.centre_mm - second.centre_mm).abs()
    assert (apart <= 0.25 * first.size_mm + 1e-4).all()
    assert (apart > 0).any()
    assert ((second.size_mm / first.size_mm - 1).abs() <= 0.0501).all()
    # the body lies in the middle of x: what is to the left of it in the scan stays left in the crop
    left = np.broadcast_to(np.arange(80, dtype=np.int16), (24, 80, 80))
    centres = [find_crop_centres(scan.voxels, scan.spacing_mm) for scan in chest.scans]
    ramps = [replace(scan, voxels=left, crop_centres=at) for scan, at in zip(chest.scans, centres, strict=True)]
    ramp = SourceScans(tuple(ramps))
    for crops in CropSampler(ramp, config, CPU, seed=0).pairs(40, shift=0.25, stretch=0.05):
        means = crops.hu.mean((1, 2, 3))
        assert (means[:, -1] > means[:, 0]).all()


def batch_of(labelled, size: int = 400, **changes):
    """Crops around each scan's region, of one voxel, that differ by what is asked for alone."""
    nothing = {"stretch": 0.0, "rotation_degrees": (0, 0, 0), "shift_mm": 1e-6, "large": 0.0}
    config = CropConfig(**{"shape": (1, 1, 1), "size_mm": (30, 30.001), **nothing, **changes})
    return CropSampler(labelled, config, CPU, seed=0, mixture={CENTRE: 1.0}).batch(size)


def test_extents_are_log_uniform_and_so_large_a_share_is_large(labelled):
    extents = batch_of(labelled, size_mm=(20, 60), large_size_mm=(100, 200), large=0.25).size_mm
    assert (extents == extents[:, :1]).all()
    large = extents[:, 0] > 99
    assert large.float().mean() == pytest.approx(0.25, abs=0.06)
    shares = np.array([0.1, 0.5, 0.9])
    for found, low, high in ((extents[~large, 0], 20, 60), (extents[large, 0], 100, 200)):
        np.testing.assert_allclose(np.quantile(found, shares), low * (high / low) ** shares, rtol=0.1)


def test_stretch_and_shift_are_even_and_at_most_what_is_said(labelled):
    crops = batch_of(labelled, stretch=0.2, shift_mm=10.0)
    centres = torch.stack([torch.tensor(labelled.scans[n].centre) * torch.tensor([3.0, 2.0, 2.0]) for n in crops.scan])
    for found, most in ((crops.size_mm / 30 - 1, 0.2), (crops.centre_mm - centres, 10.0)):
        quantiles = np.quantile(found.numpy(), [0, 0.25, 0.5, 0.75, 1], axis=0) / most
        np.testing.assert_allclose(quantiles, np.repeat([[-1], [-0.5], [0], [0.5], [1]], 3, axis=1), atol=0.15)
        assert np.abs(quantiles).max() < 1.001


def test_so_many_crops_are_mirrored_along_each_axis_and_cut():
    """Of a scan whose voxels are their own place along one axis."""
    for axis, (mirrored, cut) in enumerate(zip((0.1, 0.3, 0.6), (0.5, 0.3, 0.3), strict=True)):
        ramp = np.broadcast_to(np.moveaxis(np.arange(40, dtype=np.int16)[:, None, None], 0, axis), (40, 40, 40))
        scan = SourceScan(ramp, (1.0, 1.0, 1.0), "a" * 64, centre=(19.5, 19.5, 19.5))
        shape = [1, 1, 1]
        shape[axis] = 9
        along = {"shape": tuple(shape), "size_mm": (36, 36.001)}
        crops = batch_of(SourceScans((scan,)), **along, flip=(0.1, 0.3, 0.6), cut=(0.5, 0.3))
        rise = crops.hu.flatten(1).diff()
        assert (rise.sum(1) < 0).float().mean() == pytest.approx(mirrored, abs=0.08)
        ends = (rise[:, [0, -1]].abs() < 0.01).all(1)  # the last voxel repeats at both ends
        least = 0.1 if axis == 0 else 0.55  # of half the extent that is never cut; the last voxels' middles are at 7/9
        assert ends.float().mean() == pytest.approx(cut * (6 / 9 - least) / (1 - least), abs=0.08)
