"""A map is placed on the scan's own voxels, however they are stored; SimpleITK and scipy are the references."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from bright_and_dark import BRIGHT, learned
from scipy import ndimage
from scipy.spatial.transform import Rotation

from med_transfer.explanation import GradCAM
from med_transfer.explanation.mapping import on_scan
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import Region, Volume, geometry
from med_transfer.scans.geometry import Grid, index_map
from med_transfer.scans.volume import Provenance

SHAPE = (24, 40, 44)
_TURNED = Rotation.from_euler("xyz", (10, 20, -15), degrees=True).as_matrix()
AXES = {
    "plain": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "permuted": np.diag([1.0, -1.0, -1.0])[[2, 0, 1]],
    "oblique": _TURNED,
    "oblique and flipped": _TURNED @ np.diag([1.0, -1.0, -1.0]),
}
GANTRY = np.array([[1, 0, 0], [0, 1, 0.27], [0, 0, 1.0]])


def affine_of(axes: np.ndarray, spacing=(0.7, 0.8, 1.3)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag(spacing)
    affine[:3, 3] = [-20.0, 15.0, 300.0]
    return affine


def grid_in(affine: np.ndarray, shift_mm=(0.0, 0.0, 0.0), orientation="SPL") -> Grid:
    centre = geometry.centre_mm(affine, SHAPE) + np.array(shift_mm)
    shape = (10, 12, 14)
    return Grid(geometry.grid_affine(orientation, (1.5, 1.2, 1.0), centre, shape), shape)


def as_itk(values: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(values)
    spacing = np.array(geometry.spacing_mm(affine))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


@pytest.mark.parametrize("orientation", ["SPL", "IAR", "LSP"])
@pytest.mark.parametrize("axes", list(AXES))
def test_values_are_simpleitks(axes, orientation):
    affine = affine_of(AXES[axes])
    grid = grid_in(affine, (2.0, -1.0, 1.0), orientation)
    values = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    found = on_scan(values, grid, affine, SHAPE)
    onto = as_itk(np.zeros(SHAPE, np.float32), affine)
    expected = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(as_itk(values, grid.affine), onto, SimpleITK.Transform(), SimpleITK.sitkLinear, -1.0)
    )
    inner = expected >= 0  # ITK interpolates up to the outermost voxels' middles or edges, by version
    assert inner.sum() > 500
    index = index_map(grid.affine, Grid(affine, SHAPE))
    places = np.einsum("ab,b...->a...", index.matrix, np.indices(SHAPE)) + index.offset[:, None, None, None]
    seen = ((places >= -0.5) & (places <= np.array(grid.shape)[:, None, None, None] - 0.5)).all(axis=0)
    np.testing.assert_array_equal(np.isfinite(found), seen)
    np.testing.assert_allclose(found[inner & seen], expected[inner & seen], atol=1e-4)


def by_scipy(values: np.ndarray, grid: Grid, scan: Grid) -> np.ndarray:
    """Linearly interpolated on the scan's voxels; beyond the grid as at its edge."""
    index = index_map(grid.affine, scan)
    places = np.einsum("ab,b...->a...", index.matrix, np.indices(scan.shape)) + index.offset[:, None, None, None]
    return ndimage.map_coordinates(values.astype(float), places, order=1, mode="nearest")


def test_a_tilted_gantry_is_followed():
    """ITK has no sheared axes: scipy does."""
    affine = affine_of(GANTRY)
    grid = grid_in(affine)
    values = ndimage.gaussian_filter(np.random.default_rng(1).random(grid.shape), 1).astype(np.float32)
    found = on_scan(values, grid, affine, SHAPE)
    expected = by_scipy(values, grid, Grid(affine, SHAPE))
    seen = np.isfinite(found)
    assert seen.sum() > 500
    np.testing.assert_allclose(found[seen], expected[seen], atol=1e-4)


@pytest.mark.parametrize("axes", ["flipped", "oblique"])
def test_coarser_voxels_show_the_maps_value_at_their_middle(axes):
    """No mean over what such a voxel covers: a map is smooth, and a scan's low-pass would blur its peak away."""
    shape = (8, 10, 9)
    affine = affine_of(AXES[axes], (2.5, 3.0, 4.0))
    grid = Grid(
        geometry.grid_affine("SPL", (1.5, 1.2, 1.0), geometry.centre_mm(affine, shape), (20, 22, 24)), (20, 22, 24)
    )
    values = np.random.default_rng(2).random(grid.shape).astype(np.float32)
    found = on_scan(values, grid, affine, shape)
    expected = by_scipy(values, grid, Grid(affine, shape))
    seen = np.isfinite(found)
    assert seen.sum() > 300
    np.testing.assert_allclose(found[seen], expected[seen], atol=1e-4)


def test_a_voxel_whose_middle_is_on_the_grids_outer_face_is_seen():
    grid = Grid(geometry.grid_affine("SPL", (1.0, 1.0, 1.0), (0, 0, 0), (4, 6, 8)), (4, 6, 8))
    affine = np.eye(4)
    affine[:3, 3] = -6
    seen = np.isfinite(on_scan(np.ones(grid.shape, np.float32), grid, affine, (13, 13, 13)))
    expected = np.zeros((13, 13, 13), bool)  # middles at whole mm from -6 to 6, faces at 2, 3 and 4 mm
    expected[4:9, 3:10, 2:11] = True
    np.testing.assert_array_equal(seen, expected)


def test_a_grid_outside_of_the_scan_leaves_nothing():
    affine = affine_of(np.eye(3))
    grid = grid_in(affine, (500.0, 0.0, 0.0))
    assert np.isnan(on_scan(np.ones(grid.shape, np.float32), grid, affine, SHAPE)).all()


def test_a_grid_larger_than_the_scan_covers_all_of_it():
    affine = affine_of(_TURNED)
    grid = Grid(geometry.grid_affine("SPL", (10, 10, 10), geometry.centre_mm(affine, SHAPE), (10, 10, 10)), (10,) * 3)
    np.testing.assert_array_equal(on_scan(np.ones((10,) * 3, np.float32), grid, affine, SHAPE), np.ones(SHAPE))


# From scan to network and back: the map of a lesion lies on the lesion -------------------------------------------

SPACINGS = {"isotropic": (1.0, 1.0, 1.0), "thick slices": (0.8, 0.8, 2.5)}


def scan_with_lesion(axes: np.ndarray, spacing: tuple[float, float, float]) -> tuple[Volume, np.ndarray]:
    """A noisy scan of 32 mm with a bright ball, and the ball's mask on the scan's voxels."""
    shape = tuple(round(32 / mm) for mm in spacing[::-1])
    affine = affine_of(axes, spacing)
    middle = geometry.centre_mm(affine, shape)  # type: ignore[arg-type]
    indices = np.indices(shape)[::-1].reshape(3, -1).T
    lesion = np.linalg.norm(geometry.to_world_mm(affine, indices) - middle - np.array([6.0, -5.0, 4.0]), axis=1) <= 5.0
    voxels = np.random.default_rng(3).normal(0, 50, shape)
    voxels[lesion.reshape(shape)] += 1000
    return Volume(voxels.astype(np.int16), affine, Provenance(Path("scan.nii"), "nifti")), lesion.reshape(shape)


@pytest.mark.parametrize("region", ["whole", "roi"])
@pytest.mark.parametrize("spacing", list(SPACINGS))
@pytest.mark.parametrize("axes", list(AXES))
def test_the_map_of_a_lesion_lies_on_the_lesion(axes, spacing, region):
    volume, lesion = scan_with_lesion(AXES[axes], SPACINGS[spacing])
    config = PreprocessingConfig(spacing_mm=(2.0, 2.0, 2.0), shape=(16, 16, 16), region=region, outside="floor")
    preprocessing = Preprocessing(config.model_copy(update={"window_hu": (-1000.0, 1000.0)}))
    middle = geometry.centre_mm(volume.affine, volume.voxels.shape)  # type: ignore[arg-type]
    roi = Region((middle[0] + 3, middle[1], middle[2] - 2), (20.0, 20.0, 20.0))
    heat = GradCAM(0)(learned(), preprocessing(volume, roi), BRIGHT)
    mapped = on_scan(heat.values, preprocessing.grid(volume, roi), volume.affine, volume.voxels.shape)
    assert lesion[np.unravel_index(np.nanargmax(mapped), mapped.shape)]
    assert np.nanmean(mapped[lesion]) > 5 * np.nanmean(mapped[~lesion])


def test_the_map_is_the_same_in_the_patient_however_the_scan_is_stored():
    stored, _ = scan_with_lesion(np.eye(3), (1.0, 1.0, 1.0))
    flipped = Volume(stored.voxels[::-1, :, ::-1].copy(), stored.affine.copy(), stored.provenance)
    last = np.array(stored.voxels.shape[::-1]) - 1
    flipped.affine[:3, 3] = geometry.to_world_mm(stored.affine, [last[0], 0, last[2]])
    flipped.affine[:3, [0, 2]] *= -1
    preprocessing = Preprocessing(PreprocessingConfig(spacing_mm=(2.0, 2.0, 2.0), shape=(16, 16, 16)))
    maps = []
    for volume in (stored, flipped):
        heat = GradCAM(0)(learned(), preprocessing(volume), BRIGHT)
        maps.append(on_scan(heat.values, preprocessing.grid(volume), volume.affine, volume.voxels.shape))
    torch.testing.assert_close(torch.from_numpy(maps[0]), torch.from_numpy(maps[1][::-1, :, ::-1].copy()))
