"""Boxes around masks, against SimpleITK's label statistics."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicom_series import PLANES, as_image, plane_affine
from hypothesis import given
from hypothesis import strategies as st
from region_objects import closed, scan, write_segmentation, write_structure_set

from med_transfer.errors import UnusableVoxels
from med_transfer.scans import Provenance, Volume, geometry, region_of_mask
from med_transfer.scans.masks.masks import read_mask


def mask_volume(voxels, affine) -> Volume:
    return Volume(voxels, affine, Provenance(Path("mask.nii.gz"), "nifti"))


@pytest.mark.parametrize("plane", [plane for plane in PLANES if plane != "oblique"])
def test_box_equals_simpleitk(plane):
    voxels = np.zeros((8, 9, 10), np.uint8)
    voxels[2:5, 3:8, 4:6] = 1
    voxels[6, 4, 9] = 1
    affine = plane_affine(plane)
    statistics = SimpleITK.LabelShapeStatisticsImageFilter()
    image = as_image(voxels, affine)
    statistics.Execute(image)
    i, j, k, width, height, depth = statistics.GetBoundingBox(1)
    corners = [
        image.TransformContinuousIndexToPhysicalPoint(c)
        for c in ((i - 0.5, j - 0.5, k - 0.5), (i + width - 0.5, j + height - 0.5, k + depth - 0.5))
    ]
    region = region_of_mask(mask_volume(voxels, affine))
    np.testing.assert_allclose(region.centre_mm, np.mean(corners, axis=0))
    np.testing.assert_allclose(region.size_mm, np.abs(np.subtract(*corners)))


@given(st.sampled_from(list(PLANES)), st.integers(0, 50))
def test_box_holds_every_corner_of_every_voxel(plane, seed):
    voxels = (np.random.default_rng(seed).random((4, 5, 6)) > 0.95).astype(np.int16)
    voxels[1, 2, 3] = 1
    affine = plane_affine(plane)
    region = region_of_mask(mask_volume(voxels, affine))
    centres = np.argwhere(voxels)[:, ::-1]
    corners = np.concatenate(
        [geometry.to_world_mm(affine, centres + offset) for offset in itertools.product((-0.5, 0.5), repeat=3)]
    )
    assert (np.abs(corners - region.centre_mm) <= np.array(region.size_mm) / 2 + 1e-9).all()


def test_one_voxel_is_as_large_as_its_spacing():
    voxels = np.zeros((3, 3, 3), np.int16)
    voxels[1, 1, 1] = 7
    region = region_of_mask(mask_volume(voxels, plane_affine()))
    assert region.size_mm == pytest.approx((0.7, 0.9, 2.5))
    assert region.centre_mm == pytest.approx((-31.5 + 0.7, -42.25 + 0.9, 108 + 2.5))


def test_empty_mask():
    with pytest.raises(
        UnusableVoxels, match=r"mask\.nii\.gz: the mask is empty; expected at least one non-zero voxel\.$"
    ):
        region_of_mask(mask_volume(np.zeros((3, 3, 3), np.int16), np.eye(4)))


def test_every_kind_of_mask_gives_one_region(tmp_path):
    """A box of 4 x 3 x 2 voxels, drawn as a file, as a segmentation and as contours around its voxels."""
    voxels = np.zeros((6, 7, 9), np.uint8)
    voxels[2:4, 1:4, 3:7] = 1
    SimpleITK.WriteImage(as_image(voxels, plane_affine()), tmp_path / "mask.nrrd")
    corners = [np.array([(2.5, 0.5, k), (6.5, 0.5, k), (6.5, 3.5, k), (2.5, 3.5, k)]) for k in (2, 3)]
    contours = closed(*(geometry.to_world_mm(plane_affine(), one) for one in corners))
    paths = [
        tmp_path / "mask.nrrd",
        write_segmentation(tmp_path, voxels),
        write_structure_set(tmp_path / "rs.dcm", {"GTV": contours}),
    ]
    for path in paths:
        region = region_of_mask(read_mask(path, scan()))
        assert region.size_mm == pytest.approx((4 * 0.7, 3 * 0.9, 2 * 2.5))
        assert region.centre_mm == pytest.approx((-31.5 + 4.5 * 0.7, -42.25 + 2 * 0.9, 108 + 2.5 * 2.5))
