"""Conventions of patient space, against SimpleITK and nibabel."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from monai_affine import array_affine_ras
from scipy.spatial.transform import Rotation

from med_transfer.errors import GeometryRejected
from med_transfer.scans import geometry

AXES = [
    "".join(letters) for pairs in itertools.permutations(["RL", "AP", "IS"]) for letters in itertools.product(*pairs)
]
VOXELS = np.arange(4 * 3 * 5, dtype=np.int16).reshape(4, 3, 5)


def affine_towards(letters: str, spacing=(0.7, 0.9, 2.5), origin=(11.0, -7.0, 3.0), turn_degrees: float = 0.0):
    """(i, j, k) to LPS mm with i, j, k growing to these sides, then turned a little around z."""
    ends = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    turn = np.radians(turn_degrees)
    around_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = around_z @ np.array([ends[letter] for letter in letters]).T * spacing
    affine[:3, 3] = origin
    return affine


def image_of(voxels, affine) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetDirection((affine[:3, :3] / spacing).ravel())
    image.SetOrigin(affine[:3, 3])
    return image


def affine_of(image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


@pytest.mark.parametrize("letters", AXES)
def test_orientation_equals_nibabel_and_simpleitk(letters):
    affine = affine_towards(letters, turn_degrees=10)
    assert geometry.orientation(affine) == letters
    assert "".join(nibabel.aff2axcodes(geometry.swap_lps_ras(affine))) == letters
    direction = image_of(VOXELS, affine).GetDirection()
    assert SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction) == letters


@pytest.mark.parametrize("letters", AXES)
def test_canonical_equals_simpleitk(letters):
    affine = affine_towards(letters, turn_degrees=10)
    voxels, lps = geometry.canonical(VOXELS, affine)
    expected = SimpleITK.DICOMOrient(image_of(VOXELS, affine), "LPS")
    np.testing.assert_array_equal(voxels, SimpleITK.GetArrayFromImage(expected))
    np.testing.assert_allclose(lps, affine_of(expected), atol=1e-9)
    assert geometry.orientation(lps) == "LPS"


@pytest.mark.parametrize("letters", AXES)
def test_array_affine_is_what_nibabel_uses_for_the_array(letters):
    """nibabel's reordering of the [k, j, i] array to RAS puts every voxel where SimpleITK has it."""
    affine = affine_towards(letters)
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(VOXELS, array_affine_ras(affine)))
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    expected = SimpleITK.DICOMOrient(image_of(VOXELS, affine), "RAS")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, SimpleITK.GetArrayFromImage(expected))
    np.testing.assert_allclose(geometry.swap_lps_ras(image.affine), affine_of(expected), atol=1e-9)


@pytest.mark.parametrize("letters", AXES)
def test_affines_go_there_and_back(letters):
    affine = affine_towards(letters, turn_degrees=33)
    np.testing.assert_allclose(geometry.from_array_affine_ras(array_affine_ras(affine)), affine)
    np.testing.assert_allclose(geometry.swap_lps_ras(geometry.swap_lps_ras(affine)), affine)


@pytest.mark.parametrize("axes", AXES)
def test_grid_has_the_axes_spacing_and_centre_asked_for(axes):
    centre, shape = (10.0, -20.0, 30.0), (4, 6, 8)
    affine = geometry.grid_affine(axes, (2.0, 1.0, 0.5), centre, shape)
    assert nibabel.aff2axcodes(array_affine_ras(affine)) == tuple(axes)
    assert geometry.spacing_mm(affine) == (0.5, 1.0, 2.0)
    np.testing.assert_allclose(geometry.centre_mm(affine, shape), centre)
    image = image_of(np.zeros(shape, np.int16), affine)
    middle = image.TransformContinuousIndexToPhysicalPoint((np.array(image.GetSize()) - 1) / 2)
    np.testing.assert_allclose(middle, centre)


@given(st.sampled_from(AXES), st.tuples(*[st.floats(-50, 50)] * 3), st.floats(-60, 60))
def test_points_equal_simpleitk(letters, index, turn):
    affine = affine_towards(letters, turn_degrees=turn)
    world = geometry.to_world_mm(affine, index)
    np.testing.assert_allclose(
        world, image_of(VOXELS, affine).TransformContinuousIndexToPhysicalPoint(index), atol=1e-9
    )
    np.testing.assert_allclose(geometry.to_index(affine, world), index, atol=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 0.4, 14.0, -18.5])
def test_shear_is_the_tilt(degrees):
    affine = affine_towards("LPS")
    affine[1, 2] = np.tan(np.radians(degrees)) * affine[2, 2]
    assert geometry.shear_degrees(affine) == pytest.approx(abs(degrees), abs=1e-9)


def test_turned_axes_are_not_sheared():
    assert geometry.shear_degrees(affine_towards("PSR", turn_degrees=27)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("axes", [np.zeros((3, 3)), np.full((3, 3), np.nan), [[1, 2, 0], [1, 2, 0], [0, 0, 1]]])
def test_singular_affine(axes):
    affine = np.eye(4)
    affine[:3, :3] = axes
    with pytest.raises(
        GeometryRejected, match=r"voxel axes do not span space; expected an affine that can be inverted\.$"
    ):
        geometry.orientation(affine)


@pytest.mark.parametrize("leans_to", [0, 1])
@pytest.mark.parametrize(("axes", "name"), [("PSL", "sagittal"), ("LSP", "coronal"), ("LPS", "axial")])
def test_a_plane_has_its_name_up_to_20_degrees(axes, name, leans_to):
    affine = affine_towards(axes)
    for degrees, expected in ((19.9, name), (20.1, "oblique")):
        lean = Rotation.from_rotvec(np.radians(degrees) * affine[:3, leans_to] / np.linalg.norm(affine[:3, leans_to]))
        assert geometry.plane(np.vstack([lean.as_matrix() @ affine[:3], affine[3]])) == expected


def test_inside_are_the_voxels_with_their_outer_faces():
    affine = affine_towards("PSR", turn_degrees=30)
    middle, last = np.array([2.0, 1.0, 1.5]), np.array([4, 2, 3])
    for axis in range(3):
        for far, expected in ((-0.5 - 1e-6, False), (-0.5 + 1e-6, True), (last[axis] + 0.5 - 1e-6, True)):
            index = np.where(np.arange(3) == axis, far, middle)
            assert geometry.inside(affine, (4, 3, 5), geometry.to_world_mm(affine, index)) == expected
    ends = np.array([[-0.5, -0.5, -0.5], [4.5, 2.5, 3.5], [4.5, 2.5, 3.6], [0, 2.6, 0], [5, 0, 0]])
    assert geometry.inside(np.eye(4), (4, 3, 5), ends).tolist() == [True, True, False, False, False]


def test_a_lattice_reaches_from_the_first_voxel_to_the_last():
    expected = [(i, j, k) for i in (0, 2, 4) for j in (0,) for k in (0, 1)]
    assert geometry.lattice((2, 1, 5), 3).tolist() == [[float(n) for n in index] for index in expected]
