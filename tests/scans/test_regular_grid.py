"""Tilted gantries and uneven gaps: the repaired volume has each landmark where the scanner saw it."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from dicom_series import as_image, hounsfield, plane_affine, write_series
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from med_transfer.errors import GeometryRejected
from med_transfer.scans import find_series, geometry, read_scan
from med_transfer.scans.dicom.regular_grid import on_regular_grid

GAPS = [0, 1, 2, 3.6, 5.2, 6.2, 7.2]  # slice steps of 2.5 mm: gaps of 2.5 and 4 mm


def ramp(affine: np.ndarray, shape=(7, 20, 22), offsets=None) -> np.ndarray:
    """HU that grow linearly in the patient: linear interpolation anywhere must give them back exactly."""
    k, j, i = np.indices(shape).astype(float)
    if offsets is not None:
        k = np.array(offsets)[:, None, None] + 0 * k
    points = np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    return np.rint(points @ [4.0, -3.0, 8.0]).astype(np.int16)


def blob(points_mm: np.ndarray, centre_mm) -> np.ndarray:
    return -1000 + 1400 * np.exp(-((points_mm - np.array(centre_mm)) ** 2).sum(-1) / (2 * 4.0**2))


def centroid_mm(volume) -> np.ndarray:
    weights = np.clip(volume.voxels.astype(float) + 900, 0, None)
    k, j, i = ndimage.center_of_mass(weights)
    return geometry.to_world_mm(volume.affine, [i, j, k])


def test_uneven_gaps_are_rejected_until_a_limit_is_set(tmp_path):
    write_series(tmp_path, ramp(plane_affine(), offsets=GAPS), offsets=GAPS)
    with pytest.raises(GeometryRejected, match=r"uneven gaps: 2\.50 mm from 1 to 3, 4\.00 mm from 3 to 5"):
        read_scan(tmp_path)
    with pytest.raises(GeometryRejected, match="uneven gaps"):
        read_scan(tmp_path, max_gap_mm=3.9)
    assert find_series(tmp_path, max_gap_mm=4.0)[0].verdict.decision == "repair"


@pytest.mark.parametrize("plane", ["axial", "axial feet first", "coronal", "sagittal", "oblique"])
def test_uneven_gaps_are_interpolated_at_true_positions(tmp_path, plane):
    affine = plane_affine(plane)
    write_series(tmp_path, ramp(affine, offsets=GAPS), affine, offsets=GAPS)
    volume = read_scan(tmp_path, max_gap_mm=4.0)
    assert volume.verdict.decision == "repair"
    assert "interpolated between the true positions" in str(volume.verdict)
    assert volume.voxels.shape == (8, 20, 22)
    np.testing.assert_allclose(volume.spacing_mm, (0.7, 0.9, 18 / 7), atol=1e-5)
    np.testing.assert_allclose(volume.voxels, ramp(volume.affine, volume.voxels.shape), atol=1.01)  # rounded twice


def test_missing_slice_within_the_limit_is_interpolated(tmp_path):
    offsets = [0, 1, 2, 4, 5]
    write_series(tmp_path, ramp(plane_affine(), (5, 20, 22), offsets), offsets=offsets)
    with pytest.raises(GeometryRejected, match="1 slice missing"):
        read_scan(tmp_path)
    volume = read_scan(tmp_path, max_gap_mm=5.0)
    np.testing.assert_allclose(volume.voxels, ramp(plane_affine(), (6, 20, 22)), atol=1.01)


@pytest.mark.parametrize("degrees", [-21.0, 7.5, 18.5])
@pytest.mark.parametrize("offsets", [range(9), [0, 1, 2, 3, 4.6, 6.2, 7.8, 9, 10]], ids=["even", "uneven"])
def test_a_landmark_stays_where_it_was(tmp_path, degrees, offsets):
    """A sphere in a tilted, unevenly spaced stack: half a voxel of shift would show."""
    affine = plane_affine(spacing_mm=(1.0, 1.0, 2.5), origin_mm=(-20.0, -20.0, -12.0))
    shift = np.tan(np.radians(degrees)) * affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    sheared = affine.copy()
    sheared[:3, 2] += shift * 2.5
    k, j, i = np.indices((9, 48, 44)).astype(float)
    k = np.array(list(offsets), float)[:, None, None] + 0 * k
    points = np.stack([i, j, k], axis=-1) @ sheared[:3, :3].T + sheared[:3, 3]
    centre = points[4, 24, 22]
    hu = np.rint(blob(points, centre)).astype(np.int16)

    def place(n, dataset):
        position = sheared[:3, 3] + list(offsets)[n] * sheared[:3, 2]
        dataset.ImagePositionPatient = list(np.round(position, 6))

    write_series(tmp_path, hu, affine, change=place)
    volume = read_scan(tmp_path, max_gap_mm=5.0)
    assert volume.verdict.decision == "repair"
    assert geometry.shear_degrees(volume.affine) < 1e-3
    np.testing.assert_allclose(centroid_mm(volume), centre, atol=0.15)


@given(
    st.lists(st.floats(1.0, 4.0), min_size=3, max_size=9),
    st.floats(-0.5, 0.5),
    st.floats(-0.5, 0.5),
    st.sampled_from([np.int16, np.float32]),
)
def test_a_linear_field_comes_back(gaps, tilt_i, tilt_j, dtype):
    """Whatever the gaps and the tilt: trilinear interpolation gives a linear field back, inside."""
    along = np.concatenate([[0.0], np.cumsum(gaps)])
    positions = np.stack([tilt_i * along, tilt_j * along, along], axis=1)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    j, i = np.indices((12, 14)).astype(float)
    field = np.stack([20 * (i + p[0]) - 30 * (j + p[1]) + 50 * p[2] for p in positions])
    voxels, straight = on_regular_grid(np.rint(field).astype(dtype), affine, positions, -9999)
    np.testing.assert_array_equal(affine, np.eye(4))  # its own stays as it was
    assert voxels.dtype == dtype
    k, j, i = np.indices(voxels.shape).astype(float)
    x, y, z = (np.stack([i, j, k], axis=-1) @ straight[:3, :3].T + straight[:3, 3]).transpose(3, 0, 1, 2)
    low, high = positions.max(axis=0), np.add(positions.min(axis=0), (13, 11, 0))
    middle = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])  # what every slice covers
    np.testing.assert_allclose(voxels[middle], (20 * x - 30 * y + 50 * z)[middle], atol=2.5)


def test_no_narrow_gap_multiplies_the_volume():
    along = np.array([0.0, 3.0, 3.05, 6.0, 9.0])
    positions = np.stack([0 * along, 0 * along, along], axis=1)
    voxels, _ = on_regular_grid(hounsfield((5, 8, 8)), np.eye(4), positions, -1024)
    assert len(voxels) <= 4 * 5


def test_even_and_straight_slices_are_left_alone():
    affine = plane_affine("oblique")
    hu = hounsfield()
    positions = affine[:3, 3] + np.arange(5)[:, None] * affine[:3, 2]
    voxels, straight = on_regular_grid(hu, affine, positions, -1024)
    assert voxels is hu
    np.testing.assert_allclose(straight, affine, atol=1e-9)


@pytest.mark.parametrize(
    ("aside_mm", "shape", "start_mm"),
    [
        ((0.0, 0.5), (5, 14, 14), (0, 0)),
        ((0.0, -0.5), (5, 14, 14), (0, -2)),
        ((0.75, 0.0), (5, 12, 17), (0, 0)),
        ((-0.4, 0.6), (5, 15, 16), (-2, 0)),
    ],
)
def test_the_grid_is_wider_by_the_voxels_that_slices_move_and_no_more(aside_mm, shape, start_mm):
    k = np.arange(5)
    positions = np.stack([aside_mm[0] * k, aside_mm[1] * k, 2.0 * k], axis=1)
    voxels, affine = on_regular_grid(np.ones((5, 12, 14), np.int16), np.eye(4), positions, 0)
    assert voxels.shape == shape
    assert affine[:3, 3] == pytest.approx([*start_mm, 0])
    assert geometry.spacing_mm(affine) == pytest.approx((1, 1, 2))


def test_uneven_gaps_as_simpleitk_resamples_each_span(tmp_path):
    """Between two slices a volume of two slices is what SimpleITK interpolates in."""
    hu = hounsfield((7, 20, 22), seed=5)
    affine = plane_affine()
    write_series(tmp_path, hu, affine, offsets=GAPS)
    volume = read_scan(tmp_path, max_gap_mm=4.0)
    for k in range(1, len(volume.voxels) - 1):
        depth = k * volume.spacing_mm[2] / 2.5
        below = int(np.searchsorted(GAPS, depth, side="right")) - 1
        span = affine.copy()
        span[:3, 3] += GAPS[below] * affine[:3, 2]
        span[:3, 2] *= GAPS[below + 1] - GAPS[below]
        pair = as_image(hu[below : below + 2].astype(np.float32), span)
        target = as_image(volume.voxels[k : k + 1].astype(np.float32), volume.affine)
        target.SetOrigin(geometry.to_world_mm(volume.affine, [0, 0, k]).tolist())
        reference = SimpleITK.GetArrayFromImage(
            SimpleITK.Resample(pair, target, SimpleITK.Transform(), SimpleITK.sitkLinear)
        )
        np.testing.assert_allclose(volume.voxels[k], reference[0], atol=0.51)
