"""NRRD and MetaImage files against SimpleITK, and every way in which one can be wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK
from dicom_series import as_image, hounsfield, image_affine, plane_affine

from med_transfer.errors import GeometryRejected, NotAScan, UnreadableScan, UnusableVoxels
from med_transfer.scans import find_series, read_scan

SUFFIXES = ("nrrd", "nhdr", "mha", "mhd")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("plane", ["axial", "oblique"])
def test_voxels_and_affine_equal_simpleitk(tmp_path, suffix, plane):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine(plane)), path, useCompression=suffix == "nrrd")
    reference = SimpleITK.ReadImage(path)
    volume = read_scan(path)
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(reference))
    np.testing.assert_allclose(volume.affine, image_affine(reference), atol=1e-9)
    np.testing.assert_allclose(volume.affine, plane_affine(plane), atol=1e-6)
    assert volume.voxels.dtype == np.int16
    assert volume.provenance.format == ("nrrd" if suffix in ("nrrd", "nhdr") else "metaimage")
    assert str(volume.verdict) == "accept"


def test_nrrd_in_ras_becomes_lps(tmp_path):
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 9 7 5\nendian: little\n"
        "encoding: raw\nspace directions: (0.7,0,0) (0,0.9,0) (0,0,2.5)\nspace origin: (1,2,3)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + hounsfield().astype("<i2").tobytes())
    volume = read_scan(tmp_path / "a.nrrd")
    np.testing.assert_allclose(
        volume.affine, np.diag([-1, -1, 1, 1]) @ [[0.7, 0, 0, 1], [0, 0.9, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(volume.voxels, hounsfield())


def test_nrrd_without_space_is_nominal(tmp_path):
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 9 7 5\nspacings: 0.7 0.9 2.5\nendian: little\nencoding: raw\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + hounsfield().astype("<i2").tobytes())
    volume = read_scan(tmp_path / "a.nrrd")
    assert str(volume.verdict).startswith("accept: affine is nominal")
    assert volume.spacing_mm == pytest.approx((0.7, 0.9, 2.5))


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_one_volume_in_four_dimensions(tmp_path, suffix):
    image = SimpleITK.JoinSeries([as_image(hounsfield(), plane_affine("oblique"))])
    SimpleITK.WriteImage(image, tmp_path / f"a.{suffix}")
    volume = read_scan(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(volume.voxels, hounsfield())
    np.testing.assert_allclose(volume.affine, plane_affine("oblique"), atol=1e-6)


def _sheared():
    image = as_image(hounsfield(), plane_affine())
    image.SetDirection([1, 0, 0.3, 0, 1, 0, 0, 0, 0.95])
    return image


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (SimpleITK.JoinSeries([as_image(hounsfield(), np.eye(4))] * 2), r"array of 9 x 7 x 5 x 2 holds 2 volumes"),
        (SimpleITK.GetImageFromArray(hounsfield()[0]), r"array of 9 x 7 is not three-dimensional"),
        (SimpleITK.Compose([as_image(hounsfield(), np.eye(4))] * 3), r"3 values a voxel, not one"),
        (_sheared(), r"voxel axes are sheared by 17\.5 degrees"),
    ],
)
def test_rejected_geometry(tmp_path, suffix, image, message):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(image, path)
    assert find_series(path)[0].verdict.decision == "reject"
    with pytest.raises(GeometryRejected, match=message):
        read_scan(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_text_in_disguise(tmp_path, suffix, capfd):
    path = tmp_path / f"a.{suffix}"
    path.write_text("not a scan at all")
    with pytest.raises(NotAScan, match=rf"a\.{suffix}: not a readable (nrrd|metaimage) file in spite of its name"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_file(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"")
    with pytest.raises(UnreadableScan, match=r"empty file"):
        read_scan(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_truncated(tmp_path, suffix, compressed, capfd):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), path, useCompression=compressed)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreadableScan, match=r"truncated or corrupt data"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("suffix", "data"), [("nhdr", "a.raw"), ("mhd", "a.raw")])
def test_missing_data_file(tmp_path, suffix, data):
    path = tmp_path / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), path)
    (tmp_path / data).unlink()
    message = rf"a\.{suffix}: .*its data file ('{re.escape(data)}' )?is missing"
    with pytest.raises((UnreadableScan, NotAScan), match=message):
        read_scan(path)


def test_nan(tmp_path):
    values = hounsfield().astype(np.float32)
    values[0, 0, 0] = np.nan
    SimpleITK.WriteImage(as_image(values, plane_affine()), tmp_path / "a.mha")
    with pytest.raises(UnusableVoxels, match=r"1 of 315 voxels are NaN or infinite"):
        read_scan(tmp_path / "a.mha")
