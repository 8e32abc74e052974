"""The fast resampler against its slow definition, against MONAI and SimpleITK, and by its properties."""

import os
import time

import monai
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import SpatialResample
from monai_affine import array_affine_ras
from packaging.version import Version
from scans_in_space import EVERY_WAY, OBLIQUE, PARALLEL, grid_about, reference_resample, smooth, turned
from threadpoolctl import threadpool_limits

from med_transfer.preprocessing import resample
from med_transfer.scans import geometry
from med_transfer.scans.geometry import Grid, index_map, voxel_ratio

RANGE_HU = 2000  # of the smooth scans; errors are relative to it
GRIDS = {
    "coarser": {},
    "much coarser": {"spacing": (6.0, 4.0, 3.5), "shape": (9, 10, 8)},
    "finer": {"spacing": (0.5, 0.4, 0.6), "shape": (20, 22, 24)},
    "partly outside": {"shift_mm": (14.0, -11.0, 12.0), "spacing": (1.5, 0.6, 1.1)},
    "all outside": {"shift_mm": (200.0, 0.0, 0.0)},
    "other axes": {"axes": "LSA"},
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("affine", EVERY_WAY.values(), ids=EVERY_WAY)
def test_equals_gaussian_and_linear_interpolation_by_scipy(affine, grid):
    voxels = smooth()
    grid = grid_about(affine, voxels.shape, **grid)
    for outside, fill in (("edge", None), (-1000.0, -1000.0)):
        for antialias in (True, False):
            ours = resample(voxels, affine, grid, outside=outside, antialias=antialias)
            reference = reference_resample(voxels, affine, grid, fill=fill, antialias=antialias)
            assert ours.dtype == np.float32
            assert ours.flags.c_contiguous
            np.testing.assert_allclose(ours, reference, atol=2e-6 * RANGE_HU)


@settings(max_examples=60)
@given(
    size=st.tuples(*[st.integers(1, 20)] * 3),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 5.0)] * 3),
    axes=st.sampled_from(["SPL", "RAS", "IAR", "LSP"]),
    shift_mm=st.tuples(*[st.floats(-15, 15)] * 3),
    affine=st.sampled_from(list(EVERY_WAY.values())),
    outside=st.sampled_from(["edge", 0.0, 500.0]),
    dtype=st.sampled_from([np.int16, np.float32]),
)
def test_equals_the_definition_for_any_sizes(size, shape, spacing, axes, shift_mm, affine, outside, dtype):
    voxels = np.random.default_rng(0).integers(-1000, 1000, size).astype(dtype)
    grid = grid_about(affine, size, spacing, shape, axes, shift_mm)
    fill = None if outside == "edge" else outside
    reference = reference_resample(voxels, affine, grid, fill=fill)
    np.testing.assert_allclose(resample(voxels, affine, grid, outside=outside), reference, atol=5e-6 * RANGE_HU)


@pytest.mark.skipif(
    Version(monai.__version__) < Version("1.6"),
    reason="before 1.6 its align_corners samples elsewhere than SimpleITK, too",
)
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("affine", EVERY_WAY.values(), ids=EVERY_WAY)
def test_equals_monai_without_low_pass(affine, padding):
    voxels = smooth()
    grid = grid_about(affine, voxels.shape, shape=(26, 24, 28))
    image = MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(array_affine_ras(affine)))
    reference = SpatialResample(mode="bilinear", padding_mode=padding, align_corners=True)(
        image, torch.from_numpy(array_affine_ras(grid.affine)), grid.shape
    )
    outside = "edge" if padding == "border" else 0.0
    ours = resample(voxels, affine, grid, outside=outside, antialias=False)
    np.testing.assert_allclose(ours, reference[0].numpy(), atol=2e-6 * RANGE_HU)


@pytest.mark.parametrize("affine", EVERY_WAY.values(), ids=EVERY_WAY)
def test_equals_simpleitk_inside(affine):
    voxels = smooth()
    grid = grid_about(affine, voxels.shape, spacing=(0.9, 0.8, 0.7))
    images = []
    for array, place in ((voxels, affine), (np.zeros(grid.shape, np.int16), grid.affine)):
        image, spacing = sitk.GetImageFromArray(array), np.array(geometry.spacing_mm(place))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(place[:3, 3].tolist())
        image.SetDirection((place[:3, :3] / spacing).ravel().tolist())
        images.append(image)
    resampled = sitk.Resample(*images, sitk.Transform(), sitk.sitkLinear, -9999.0, sitk.sitkFloat32)
    reference = sitk.GetArrayFromImage(resampled)
    inside = reference > -9000
    assert inside.mean() > 0.9
    ours = resample(voxels, affine, grid, antialias=False)
    np.testing.assert_allclose(ours[inside], reference[inside], atol=2e-6 * RANGE_HU)


@pytest.mark.parametrize("affine", EVERY_WAY.values(), ids=EVERY_WAY)
def test_a_landmark_stays_at_its_place_in_the_patient(affine):
    """The centre of mass of a blob: half a voxel of shift, or a flipped axis, would be 0.35 mm and more."""
    place_kji = np.array([13.3, 17.6, 26.9])
    squared = ((np.indices((24, 40, 44)) - place_kji[:, None, None, None]) ** 2).sum(axis=0)
    voxels = np.rint(10000 * np.exp(-squared / (2 * 2.0**2))).astype(np.int16)
    grid = grid_about(affine, voxels.shape, shape=(40, 42, 44), axes="RSA")
    blob = resample(voxels, affine, grid)
    found = [(blob * index).sum() / blob.sum() for index in np.indices(grid.shape)]
    where = geometry.to_world_mm(grid.affine, found[::-1])
    np.testing.assert_allclose(where, geometry.to_world_mm(affine, place_kji[::-1]), atol=0.02)


@pytest.mark.parametrize("affine", EVERY_WAY.values(), ids=EVERY_WAY)
def test_a_constant_stays_constant_to_beyond_the_edge(affine):
    voxels = np.full((12, 14, 16), -777, np.int16)
    grid = grid_about(affine, voxels.shape, spacing=(2.1, 1.9, 2.3), shape=(20, 20, 20))
    np.testing.assert_allclose(resample(voxels, affine, grid), -777, rtol=1e-6)


@pytest.mark.parametrize("affine", EVERY_WAY.values(), ids=EVERY_WAY)
def test_a_linear_ramp_is_reproduced_inside(affine):
    """Neither linear interpolation nor a symmetric low-pass changes a ramp: values are then millimetres."""
    shape, slope, start = (24, 30, 34), np.array([3.0, -2.0, 5.0]), np.array([-20.0, 15.0, 300.0])
    at_mm = geometry.to_world_mm(affine, np.stack(np.indices(shape)[::-1], axis=-1))
    voxels = ((at_mm - start) @ slope).astype(np.float32)
    grid = grid_about(affine, shape, shape=(6, 5, 4), spacing=(1.5, 1.6, 1.7))
    expected = (geometry.to_world_mm(grid.affine, np.stack(np.indices(grid.shape)[::-1], axis=-1)) - start) @ slope
    np.testing.assert_allclose(resample(voxels, affine, grid), expected, atol=2e-3)


@pytest.mark.parametrize("affine", [*PARALLEL.values(), OBLIQUE["tilted gantry"]], ids=[*PARALLEL, "tilted gantry"])
def test_stripes_beyond_nyquist_vanish_with_the_low_pass_only(affine):
    voxels = np.zeros((24, 40, 120), np.int16)
    voxels[..., ::2] = 1000  # the finest stripes there are
    grid = grid_about(affine, voxels.shape, spacing=(3.5, 3.5, 3.5), shape=(6, 6, 6))
    assert np.abs(resample(voxels, affine, grid) - 500).max() < 1
    assert np.abs(resample(voxels, affine, grid, antialias=False) - 500).max() > 200


@pytest.mark.parametrize("affine", EVERY_WAY.values(), ids=EVERY_WAY)
def test_any_memory_layout_gives_the_same(affine):
    voxels = smooth()
    grid = grid_about(affine, voxels.shape)
    expected = resample(voxels, affine, grid)
    mirrored = np.ascontiguousarray(voxels[::-1, :, ::-1])[::-1, :, ::-1]
    for other in (np.asfortranarray(voxels), mirrored, np.repeat(voxels, 2, axis=2)[:, :, ::2]):
        np.testing.assert_allclose(resample(other, affine, grid), expected, atol=1e-3)


def test_input_is_left_as_it_was():
    voxels, floating = smooth(), smooth().astype(np.float32)
    before = voxels.copy()
    for affine in EVERY_WAY.values():
        resample(voxels, affine, grid_about(affine, voxels.shape))[:] = 0
        resample(voxels, affine, Grid(affine, voxels.shape))[:] = 0
        resample(floating, affine, Grid(affine, voxels.shape))[:] = 0
    np.testing.assert_array_equal(floating, before)
    np.testing.assert_array_equal(voxels, before)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_onto_its_own_grid_nothing_changes(dtype):
    voxels = smooth(dtype=dtype)
    for affine in EVERY_WAY.values():
        ours = resample(voxels, affine, Grid(affine, voxels.shape), antialias=False)
        np.testing.assert_allclose(ours, voxels, atol=1e-3)


@pytest.mark.parametrize("shape", [(24, 30, 34), (5, 7, 9)], ids=["even", "odd"])
@pytest.mark.parametrize("axis", range(3))
def test_onto_its_own_grid_seen_from_the_other_side_it_is_mirrored(shape, axis):
    """Of an odd number of voxels one stays where it was, to the last bit where the spacing is a power of two."""
    voxels, affine = smooth(shape), np.diag([0.5, 1.0, 2.0, 1.0])
    mirrored = affine.copy()
    mirrored[:3, 3] += (shape[axis] - 1) * affine[:3, 2 - axis]
    mirrored[:3, 2 - axis] *= -1
    np.testing.assert_array_equal(resample(voxels, affine, Grid(mirrored, shape)), np.flip(voxels, axis))


@pytest.mark.parametrize("shape", [(90, 40, 44), (24, 40, 300), (24, 200, 20)], ids=["deep", "wide", "high"])
def test_the_order_of_the_axes_does_not_matter(shape):
    """Long axes change the order of the passes and cut the bands into several."""
    voxels, affine = smooth(shape), PARALLEL["plain"]
    grid = grid_about(affine, shape, spacing=(5.0, 2.0, 3.0), shape=(24, 60, 70))
    np.testing.assert_allclose(
        resample(voxels, affine, grid, outside=-5.0),
        reference_resample(voxels, affine, grid, fill=-5.0),
        atol=2e-6 * RANGE_HU,
    )


def test_nearly_parallel_counts_as_parallel_below_a_ten_thousandth_of_a_voxel():
    voxels = smooth()
    for degrees in (1e-5, 1e-3):
        affine = turned(0, 0, degrees)
        grid = grid_about(affine, voxels.shape)
        expected = reference_resample(voxels, affine, grid)
        np.testing.assert_allclose(resample(voxels, affine, grid), expected, atol=1e-4 * RANGE_HU)


def test_index_map_and_ratio_are_in_array_order():
    affine = np.diag([1.0, 2.0, 4.0, 1.0])
    grid = Grid(np.array([[2.0, 0, 0, 3], [0, 0, 8, 10], [0, 8.0, 0, -4], [0, 0, 0, 1]]), (5, 6, 7))
    where = index_map(affine, grid)
    k, j, i = 1, 2, 3
    world = grid.affine @ [i, j, k, 1]
    expected = [world[2] / 4, world[1] / 2, world[0]]
    np.testing.assert_allclose(where.matrix @ [k, j, i] + where.offset, expected)
    np.testing.assert_allclose(voxel_ratio(affine, grid), [2, 4, 2])


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: nothing could run beside")
def test_parallel_axes_are_resampled_in_the_calling_thread():
    """Also where BLAS may use more: the workers of a data loader must not fight for the cores."""
    voxels, affine = np.zeros((30, 400, 1000), np.int16), np.diag([0.4, 0.7, 1.25, 1.0])
    grid = Grid(np.diag([4.0, 1.5, 1.5, 1.0]), (25, 186, 100))
    with threadpool_limits(limits=2, user_api="blas"):
        shares = []
        while len(shares) < 20 and min(shares, default=2.0) > 1.1:  # threads just started look for work for a while
            everyone, caller = time.process_time(), time.thread_time()
            for _ in range(5):
                resample(voxels, affine, grid)
            shares.append((time.process_time() - everyone) / (time.thread_time() - caller))
    assert min(shares) < 1.1
