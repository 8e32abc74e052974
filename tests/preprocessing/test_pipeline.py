"""One resample onto one grid: against SimpleITK, and by its properties."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scans_in_space import HALF
from scipy import ndimage

from med_transfer.errors import UnusableVoxels
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.preprocessing.region import foreground, whole
from med_transfer.scans import Provenance, Region, Volume, geometry

LPS = np.diag([0.8, 0.8, 2.5, 1.0])


def volume(voxels: np.ndarray, affine: np.ndarray = LPS) -> Volume:
    return Volume(voxels, affine, Provenance(Path("scan"), "nifti"))


def smooth_scan(shape=(20, 40, 44), seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 2.0)
    return (smooth / np.abs(smooth).max() * 900).astype(np.int16)


def oblique(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.8, 0.9, 2.0])
    affine[:3, 3] = [-20.0, 15.0, 300.0]
    return affine


def as_sitk(scan: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(scan.voxels.astype(np.float32))
    spacing = np.array(scan.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((scan.affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(scan.affine[:3, 3].tolist())
    return image


def resample_with_sitk(scan: Volume, affine: np.ndarray, shape_kji: tuple[int, int, int]) -> np.ndarray:
    spacing = np.array(geometry.spacing_mm(affine))
    direction = (affine[:3, :3] / spacing).ravel().tolist()
    resampled = sitk.Resample(
        as_sitk(scan),
        list(shape_kji[::-1]),
        sitk.Transform(),
        sitk.sitkLinear,
        affine[:3, 3].tolist(),
        spacing.tolist(),
        direction,
        -9999.0,
    )
    return sitk.GetArrayFromImage(resampled)


@pytest.mark.parametrize("orientation", ["SPL", "SRA", "IPL", "RSA"])
@pytest.mark.parametrize("affine", [LPS, oblique(20), oblique(-75)], ids=["axial", "oblique", "turned"])
def test_equals_simpleitk_inside_the_scan(orientation, affine):
    scan = volume(smooth_scan(), affine)
    config = PreprocessingConfig(
        orientation=orientation, spacing_mm=(0.8, 0.8, 0.8), shape=(12, 14, 16), output_range=(-1000, 1000)
    )
    preprocessing = Preprocessing(config)
    grid = preprocessing.grid(scan)

    ours = preprocessing(scan)[0].numpy()
    reference = resample_with_sitk(scan, grid.affine, grid.shape)

    inside = reference > -9000
    assert inside.mean() > 0.9
    np.testing.assert_allclose(ours[inside], reference[inside], atol=0.05, rtol=HALF)


def test_grid_lies_on_the_region_and_grows_to_the_named_sides():
    scan = volume(smooth_scan())
    centre = geometry.to_world_mm(LPS, [21.3, 17.7, 9.4])
    config = PreprocessingConfig(orientation="SRA", spacing_mm=(2, 1, 1), shape=(9, 9, 9), region="roi")
    grid = Preprocessing(config).grid(scan, Region(tuple(centre), (10, 10, 10)))
    np.testing.assert_allclose(geometry.centre_mm(grid.affine, grid.shape), centre)
    # array axes (depth, height, width) = (k, j, i) grow to S, R, A: so (i, j, k) grow to A, R, S
    assert geometry.orientation(grid.affine) == "ARS"
    assert geometry.spacing_mm(grid.affine) == (1.0, 1.0, 2.0)


def test_landmark_is_where_the_orientation_says():
    voxels = np.full((21, 21, 21), -1000, np.int16)
    voxels[10, 10, 18] = 1000  # towards larger i, which is the patient's left
    scan = volume(voxels, np.eye(4))
    common = {"spacing_mm": (1, 1, 1), "shape": (21, 21, 21)}
    left_up = Preprocessing(PreprocessingConfig(orientation="SPL", **common))(scan)[0].numpy()
    right_up = Preprocessing(PreprocessingConfig(orientation="SPR", **common))(scan)[0].numpy()
    assert np.unravel_index(left_up.argmax(), left_up.shape) == (10, 10, 18)
    assert np.unravel_index(right_up.argmax(), right_up.shape) == (10, 10, 2)


@settings(max_examples=20)
@given(margin=st.tuples(*[st.integers(0, 5)] * 3), seed=st.integers(0, 100), fitted=st.booleans())
def test_margin_leaves_the_inner_voxels_where_they_are(margin, seed, fitted):
    config = PreprocessingConfig(spacing_mm=None if fitted else (1.7, 1.1, 0.9), shape=(8, 10, 12))
    preprocessing = Preprocessing(config)
    scan = volume(smooth_scan(seed=seed))
    plain, wide = preprocessing(scan), preprocessing(scan, margin=margin)
    inner = tuple(slice(m, m + n) for m, n in zip(margin, config.shape, strict=True))
    np.testing.assert_array_equal(wide[:, *inner].numpy(), plain.numpy())


def test_storage_order_of_the_axes_changes_nothing():
    scan = volume(smooth_scan(), oblique(0))
    flipped = np.flip(scan.voxels, (1, 2))
    affine = scan.affine.copy()
    affine[:3, 3] = geometry.to_world_mm(scan.affine, [43, 39, 0])
    affine[:3, :2] *= -1
    preprocessing = Preprocessing(PreprocessingConfig(spacing_mm=(2, 1, 1), shape=(10, 20, 20)))
    np.testing.assert_allclose(preprocessing(volume(flipped, affine)), preprocessing(scan), atol=1e-4, rtol=2 * HALF)


def test_window_clips_and_maps():
    voxels = np.full((9, 9, 9), -50, np.int16)
    voxels[:3], voxels[6:] = -3000, 3000
    config = PreprocessingConfig(spacing_mm=(1, 1, 1), shape=(9, 9, 9), window_hu=(-100, 100), output_range=(0, 1))
    result = Preprocessing(config)(volume(voxels, np.eye(4)))[0].numpy()
    assert result.min() == 0.0
    assert result.max() == 1.0
    np.testing.assert_allclose(result[4], 0.25)


@pytest.mark.parametrize(("outside", "expected"), [("edge", 0.5), ("floor", 0.0)])
def test_beyond_the_edge(outside, expected):
    config = PreprocessingConfig(
        spacing_mm=(1, 1, 1), shape=(16, 16, 16), window_hu=(-1000, 1000), output_range=(0, 1), outside=outside
    )
    result = Preprocessing(config)(volume(np.zeros((8, 8, 8), np.int16), np.eye(4)))[0].numpy()
    assert result[0, 0, 0] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(result[4:12, 4:12, 4:12], 0.5, atol=1e-6)


def test_downsampling_does_not_alias():
    """Stripes finer than the output grid become their mean, not a false pattern."""
    voxels = np.zeros((8, 8, 120), np.int16)
    voxels[..., ::3] = 900  # a third of the voxels: the mean is 300
    config = PreprocessingConfig(spacing_mm=(1, 1, 5), shape=(8, 8, 20), window_hu=(0, 1000), output_range=(0, 1000))
    result = Preprocessing(config)(volume(voxels, np.eye(4)))[0, :, :, 2:-2].numpy()
    assert np.abs(result - 300).max() < 30


def test_fitted_spacing_spreads_the_region_over_the_shape():
    scan = volume(smooth_scan((10, 20, 40)), np.diag([1.0, 1.0, 4.0, 1.0]))
    grid = Preprocessing(PreprocessingConfig(shape=(10, 10, 10))).grid(scan)
    assert geometry.spacing_mm(grid.affine) == (4.0, 2.0, 4.0)


def test_foreground_is_the_body_without_the_table():
    voxels = np.full((30, 60, 60), -1000, np.int16)
    voxels[:, 10:40, 15:45] = 40
    voxels[:, 55:57, 5:55] = 200  # the table, apart from the body
    scan = volume(voxels, np.diag([2.0, 2.0, 2.0, 1.0]))
    region = foreground(scan)
    np.testing.assert_allclose(region.centre_mm[:2], geometry.to_world_mm(scan.affine, [29.5, 24.5, 0])[:2], atol=6.0)
    assert region.size_mm[1] == pytest.approx(60, abs=8)
    assert foreground(volume(np.full((9, 9, 9), -1000, np.int16))) == whole(volume(np.full((9, 9, 9), -1000, np.int16)))


def test_foreground_is_the_same_however_the_file_stores_its_axes():
    voxels = np.full((20, 103, 107), -1000, np.int16)
    voxels[3:13, 21:90, 33:85] = 40
    scan = volume(voxels, np.diag([1.0, 1.0, 3.0, 1.0]))
    turned = volume(voxels[:, ::-1, ::-1].transpose(2, 0, 1), scan.affine @ _turned(voxels.shape))
    assert geometry.orientation(turned.affine) != geometry.orientation(scan.affine)
    assert foreground(turned) == foreground(scan)


def _turned(shape: tuple[int, ...]) -> np.ndarray:
    """(i, j, k) of an array that is flipped along rows and columns, and then has its columns outermost, to the old."""
    _, height, width = shape
    return np.array([[0, 0, -1, width - 1], [-1, 0, 0, height - 1], [0, 1, 0, 0], [0, 0, 0, 1.0]])


def test_a_missing_region_is_an_error_that_says_what_to_do():
    config = PreprocessingConfig(region="roi")
    with pytest.raises(UnusableVoxels, match=r"scan: no region of interest; expected roi_x_mm.*train with"):
        Preprocessing(config)(volume(smooth_scan()))


def test_a_region_outside_the_scan_is_an_error_that_names_the_usual_cause():
    config = PreprocessingConfig(region="roi")
    with pytest.raises(
        UnusableVoxels, match=r"^scan: .*\(-500.0, 0.0, 0.0\) mm lies outside the scan.*LPS.*sign of x and y"
    ):
        Preprocessing(config)(volume(smooth_scan()), Region((-500.0, 0.0, 0.0), (10, 10, 10)))


def test_a_point_is_looked_at_with_a_spacing_and_cannot_be_fitted():
    point, scan = Region((10.0, 10.0, 10.0), (0.0, 0.0, 0.0)), volume(smooth_scan())
    Preprocessing(PreprocessingConfig(region="roi", spacing_mm=(1, 1, 1), shape=(8, 8, 8))).image(scan, point)
    with pytest.raises(UnusableVoxels, match="scan: region of interest without a size; expected sizes above 0 mm"):
        Preprocessing(PreprocessingConfig(region="roi")).image(scan, point)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"orientation": "SPP"}, "three letters"),
        ({"orientation": "XYZ"}, "three letters"),
        ({"window_hu": (400, -1000)}, "must rise"),
        ({"window_hu": (float("-inf"), 400)}, "a finite number"),
        ({"output_range": (0, float("nan"))}, "a finite number"),
        ({"spacing_mm": (float("inf"), 1, 1)}, "a finite number"),
        ({"output_range": (1, 0)}, "must rise"),
        ({"output_range": (0, 65505)}, "within what float16 holds, -65504 to 65504"),
        ({"channels": ("arterial",)}, "scan or scan_<name>, for example scan_arterial"),
        ({"spacing_mm": (0, 1, 1)}, "greater than 0"),
        ({"shape": (4, 32, 32)}, "greater than or equal to 8"),
        ({"spacing": (1, 1, 1)}, "Extra inputs"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(ValidationError, match=message):
        PreprocessingConfig(**values)
