"""Z-scores of a scan's own foreground: against numpy, scipy and MONAI, and by invariances."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms.intensity.array import NormalizeIntensity
from scans_in_space import HALF
from scipy import stats

from med_transfer.errors import UnusableVoxels
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.preprocessing.window import CLIPPED_TO, foreground_threshold, undo_windows, zscore_window
from med_transfer.scans import Provenance, Volume

CLIP_SD = 4.0


def volume(voxels: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    return Volume(voxels, np.eye(4) if affine is None else affine, Provenance(Path("scan"), "nifti"))


def head(shape=(20, 40, 40), seed: int = 0) -> np.ndarray:
    """Noisy air around a ball of tissue near 600, with a bright spot."""
    random = np.random.default_rng(seed)
    radius = np.linalg.norm(np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2, axis=0)
    voxels = np.abs(random.normal(0, 8, shape))
    ball = radius < min(shape) * 0.45
    voxels[ball] = random.normal(600, 90, int(ball.sum()))
    voxels[shape[0] // 2, shape[1] // 2, shape[2] // 2] = 9000
    return voxels.astype(np.float32)


def test_air_is_left_out_and_tissue_is_not():
    voxels = head()
    tissue = voxels > 200
    found = voxels > foreground_threshold(volume(voxels))
    assert (found == tissue).mean() > 0.999


def test_mean_and_spread_are_those_of_scipy_on_the_clipped_foreground():
    voxels = head()
    foreground = voxels[voxels > foreground_threshold(volume(voxels))].astype(np.float64)
    clipped = stats.mstats.winsorize(foreground, limits=(CLIPPED_TO[0] / 100, 1 - CLIPPED_TO[1] / 100))
    low, high = zscore_window(volume(voxels), CLIP_SD)
    assert (low + high) / 2 == pytest.approx(float(np.mean(clipped)), rel=1e-3)
    assert (high - low) / (2 * CLIP_SD) == pytest.approx(float(np.std(clipped)), rel=1e-2)
    assert foreground.std() > 1.1 * np.std(clipped)  # the bright spot would have set the scale


def test_input_is_that_of_monai_with_the_same_mean_and_spread():
    scan = volume(head())
    low, high = zscore_window(scan, CLIP_SD)
    config = PreprocessingConfig(
        normalisation="zscore",
        clip_sd=CLIP_SD,
        output_range=(-CLIP_SD, CLIP_SD),
        shape=(20, 40, 40),
        spacing_mm=(1, 1, 1),
    )
    ours = Preprocessing(config)(scan)[0].numpy()
    normalise = NormalizeIntensity(subtrahend=(low + high) / 2, divisor=(high - low) / (2 * CLIP_SD))
    reference = np.clip(np.asarray(normalise(scan.voxels)), -CLIP_SD, CLIP_SD)
    np.testing.assert_allclose(ours, reference, atol=1e-4, rtol=HALF)


@settings(max_examples=25)
@given(scale=st.floats(0.01, 50), shift=st.floats(-500, 500), seed=st.integers(0, 20))
def test_another_gain_and_offset_of_the_scanner_do_not_matter(scale, shift, seed):
    voxels = head((10, 24, 24), seed).astype(np.float64)
    low, high = zscore_window(volume(voxels), CLIP_SD)
    moved = zscore_window(volume(voxels * scale + shift), CLIP_SD)
    np.testing.assert_allclose(moved, (low * scale + shift, high * scale + shift), rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2)])
def test_order_of_the_files_axes_does_not_matter(axes, flipped):
    shape, order = np.array((9, 11, 13)), np.argsort(axes)
    voxels = np.random.default_rng(1).gamma(2.0, 100.0, tuple(shape))
    stored = np.flip(voxels.transpose(axes), flipped)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for world, array_axis in enumerate(order[::-1]):  # x is the last axis of the scan
        affine[world, 2 - array_axis] = -1 if array_axis in flipped else 1
    assert zscore_window(volume(stored, affine), 3) == zscore_window(volume(voxels), 3)


def test_padding_with_the_lowest_value_does_not_matter():
    voxels = head()
    voxels[0] = 0
    padded = np.pad(voxels, 12)
    np.testing.assert_allclose(zscore_window(volume(padded), 3), zscore_window(volume(voxels), 3), rtol=1e-6)


def test_body_without_a_unit_is_found_by_the_scans_own_threshold():
    voxels = np.pad(head(), 10)
    config = {"region": "foreground", "shape": (16, 16, 16)}
    found = Preprocessing(PreprocessingConfig(normalisation="zscore", **config)).grid(volume(voxels))
    in_hu = Preprocessing(PreprocessingConfig(**config)).grid(volume(voxels))
    assert np.linalg.det(found.affine) < 0.2 * np.linalg.det(in_hu.affine)  # no voxel of MR lies below -500


@pytest.mark.parametrize("voxels", [np.arange(4096).reshape(16, 16, 16) > 2000, np.eye(16)[None].repeat(16, 0)])
def test_mask_is_no_scan_to_be_scaled(voxels):
    with pytest.raises(UnusableVoxels, match=r"scan: the foreground has one value.*Is it a mask\?"):
        zscore_window(volume(voxels.astype(np.int16)), 3)


def test_windows_are_undone_and_each_value_is_that_of_the_finest_window_that_holds_it():
    hu = np.array([-1200, -1000, -700, -50, -20, 0, 140, 150, 400, 2500], np.float32).reshape(1, 2, 5)
    wide, fine = (
        PreprocessingConfig(window_hu=window, output_range=output)
        for window, output in (((-1000, 1000), (0, 4)), ((-50, 150), (-1, 1)))
    )
    coarse = (hu.clip(-1000, 1000) + 1000) * 4 / 2000
    coarse[(hu > -50) & (hu < 150)] += 0.1  # 50 HU off where the other one is more precise
    exact = (hu.clip(-50, 150) + 50) * 2 / 200 - 1
    for channels, configs in (([coarse, exact], [wide, fine]), ([exact, coarse], [fine, wide])):
        undone = undo_windows(np.stack(channels), configs)
        assert undone.dtype == np.float32
        np.testing.assert_allclose(undone, hu.clip(-1000, 1000), atol=0.01)
