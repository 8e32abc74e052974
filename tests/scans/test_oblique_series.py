"""DICOM files oblique to the patient's axes, up to the network's input: against SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import as_image, read_with_simpleitk, write_series
from scipy import ndimage
from scipy.spatial.transform import Rotation

from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import read_scan
from med_transfer.scans.geometry import Grid

TURNS = {"about x": (10, 0, 0), "about y": (0, 25, 0), "about z": (0, 0, -15), "about all": (12, -18, 25)}
HALF = 2.0**-11  # a network's input is rounded to float16: by at most so much of its value
FINE = PreprocessingConfig(  # nowhere coarser than the scan: no low-pass, which SimpleITK lacks
    spacing_mm=(0.6, 0.5, 0.5),
    shape=(28, 40, 44),
    orientation="SPL",
    window_hu=(-1000, 1000),
    output_range=(-1000, 1000),
)


def smooth_hu(seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 48, 52)), 2.0)
    return (noise / np.abs(noise).max() * 900).astype(np.int16)


def turned(degrees, tilt_degrees: float = 0.0) -> np.ndarray:
    """Slices that are turned in the patient, and that may lean against the way of the table."""
    lean = np.array([[1, 0, 0], [0, 1, np.tan(np.radians(tilt_degrees))], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ lean @ np.diag([0.7, 0.9, 2.0])
    affine[:3, 3] = [-20.0, 15.0, 300.0]
    return affine


def seen_by_simpleitk(image: sitk.Image, grid: Grid) -> np.ndarray:
    onto = as_image(np.zeros(grid.shape), grid.affine)
    return sitk.GetArrayFromImage(
        sitk.Resample(image, onto, sitk.Transform(), sitk.sitkLinear, -9999.0, sitk.sitkFloat64)
    )


@pytest.mark.parametrize("turn", TURNS)
def test_an_oblique_series_is_seen_as_simpleitk_resamples_it(tmp_path, turn):
    write_series(tmp_path, smooth_hu(1), turned(TURNS[turn]))
    scan, preprocessing = read_scan(tmp_path), Preprocessing(FINE)
    assert str(scan.verdict) == "accept"
    expected = seen_by_simpleitk(as_image(*read_with_simpleitk(tmp_path)), preprocessing.grid(scan))
    inside = expected > -9000
    assert inside.mean() > 0.9
    np.testing.assert_allclose(preprocessing.image(scan)[0][inside], expected[inside], atol=0.05, rtol=HALF)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("tilt_degrees", [-12.0, 20.0])
def test_so_is_one_whose_gantry_was_tilted(tmp_path, turn, tilt_degrees):
    """It was straightened before, so that it is interpolated twice; SimpleITK takes its sheared axes as they are."""
    hu, sheared = smooth_hu(2), turned(TURNS[turn], tilt_degrees)
    write_series(tmp_path, hu, sheared)
    scan, preprocessing = read_scan(tmp_path), Preprocessing(FINE)
    assert "gantry tilt" in str(scan.verdict)
    grid = preprocessing.grid(scan)
    expected = seen_by_simpleitk(as_image(hu, sheared), grid)
    inside = ndimage.binary_erosion(expected > -9000, np.ones((3, 3, 3)))
    difference = (preprocessing.image(scan)[0] - expected)[inside]
    assert inside.mean() > 0.5
    assert np.abs(difference).max() < 60
    assert np.sqrt(np.mean(difference**2)) < 0.02 * np.ptp(expected[inside])
    moved = Grid(grid.affine @ np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), grid.shape)
    beside = (seen_by_simpleitk(as_image(hu, sheared), moved) - expected)[inside]
    assert np.sqrt(np.mean(difference**2)) < 0.5 * np.sqrt(np.mean(beside**2)), "a quarter of a mm aside would show"
