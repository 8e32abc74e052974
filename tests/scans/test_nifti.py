"""NIfTI files against nibabel and SimpleITK, and every way in which one can be wrong."""

from __future__ import annotations

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_series import as_image, hounsfield, image_affine, plane_affine

from med_transfer.errors import GeometryRejected, NotAScan, UnreadableScan, UnusableVoxels
from med_transfer.scans import find_series, read_scan


def save(path, values_ijk, affine=None, kind=nibabel.Nifti1Image, sform=1, qform=0, **header):
    affine = np.diag([-0.7, -0.9, 2.5, 1.0]) if affine is None else affine
    image = kind(values_ijk, affine)
    image.set_qform(affine if qform else None, qform)
    image.set_sform(affine, sform)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("plane", ["axial", "sagittal", "oblique"])
def test_voxels_and_affine_equal_simpleitk(tmp_path, plane):
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine(plane)), tmp_path / "a.nii.gz")
    reference = SimpleITK.ReadImage(tmp_path / "a.nii.gz")
    volume = read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.voxels, SimpleITK.GetArrayFromImage(reference))
    np.testing.assert_allclose(volume.affine, image_affine(reference), atol=1e-4)
    assert volume.voxels.dtype == np.int16
    assert volume.provenance.format == "nifti"
    assert str(volume.verdict) == "accept"


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (2, 0), (0, 1), (4, 1)])
def test_sform_or_qform_places_the_voxels(tmp_path, sform, qform):
    affine = np.array([[0, 0, 2.5, 3], [-0.7, 0, 0, 4], [0, 0.9, 0, 5], [0, 0, 0, 1]])
    path = save(tmp_path / "a.nii", hounsfield().T, affine, sform=sform, qform=qform)
    volume = read_scan(path)
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-5)
    assert str(volume.verdict) == "accept"


def test_neither_form_is_nominal(tmp_path):
    path = save(tmp_path / "a.nii", hounsfield().T, sform=0, qform=0)
    expected = "accept: affine is nominal: the file does not say where the voxels lie in the patient"
    assert str(read_scan(path).verdict) == expected
    assert str(find_series(path)[0].verdict) == expected


def test_nifti_2(tmp_path):
    path = save(tmp_path / "a.nii.gz", hounsfield().T, kind=nibabel.Nifti2Image)
    np.testing.assert_array_equal(read_scan(path).voxels, hounsfield())


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (hounsfield().astype(np.float64), np.int16),
        (hounsfield().astype(np.float32) + np.float32(0.25), np.float32),
        (hounsfield().astype(np.int32) * 100, np.float32),
        (np.abs(hounsfield()).astype(np.uint16), np.int16),
        ((hounsfield() & 255).astype(np.uint8), np.int16),
    ],
)
def test_int16_where_exact_else_float32(tmp_path, values, dtype):
    voxels = read_scan(save(tmp_path / "a.nii", values.T)).voxels
    assert voxels.dtype == dtype
    np.testing.assert_array_equal(voxels, values)


@pytest.mark.parametrize(("slope", "inter", "dtype"), [(2.0, -1024.0, np.int16), (0.3, 5.5, np.float32)])
def test_scale_is_applied(tmp_path, slope, inter, dtype):
    stored = hounsfield()
    image = nibabel.Nifti1Image(stored.T, np.eye(4))
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, tmp_path / "a.nii.gz")
    content = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    content[112:120] = np.array(
        [slope, inter], "<f4"
    ).tobytes()  # nibabel writes its own; these are scl_slope, scl_inter
    content[352:] = np.ascontiguousarray(stored).tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    reference = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "a.nii"))
    voxels = read_scan(tmp_path / "a.nii").voxels
    assert voxels.dtype == dtype
    np.testing.assert_allclose(voxels, reference, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("slope", [np.inf, -np.inf])
@pytest.mark.parametrize(
    ("kind", "place"), [(nibabel.Nifti1Image, slice(112, 116)), (nibabel.Nifti2Image, slice(176, 184))]
)
def test_an_infinite_scale_is_no_scale(tmp_path, kind, place, slope):
    nibabel.save(kind(hounsfield().T, np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[place] = np.array(slope, f"<f{place.stop - place.start}").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(UnreadableScan, match=rf"a\.nii: scl_slope is {slope:g}.*a finite scl_slope"):
        read_scan(tmp_path / "a.nii")


@pytest.mark.parametrize("slope", [0, np.nan])
def test_a_scale_of_nothing_is_none(tmp_path, slope):
    """0 by the standard, NaN as nibabel writes it."""
    nibabel.save(nibabel.Nifti1Image(hounsfield().T, np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:116] = np.array(slope, "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.nii").voxels, hounsfield())


def test_one_volume_in_four_dimensions(tmp_path):
    path = save(tmp_path / "a.nii", hounsfield().T[..., None])
    np.testing.assert_array_equal(read_scan(path).voxels, hounsfield())


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (np.stack([hounsfield().T] * 3, axis=-1), None, r"array of 9 x 7 x 5 x 3 holds 3 volumes, not one"),
        (hounsfield()[0].T, None, r"array of 9 x 7 is not three-dimensional"),
        (hounsfield()[:1].T, None, r"array of 9 x 7( x 1)? is not three-dimensional"),
        (
            hounsfield().T,
            [[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
            r"sheared by 16\.7 degrees, as of a tilted gantry; the DICOM series can be read",
        ),
        (hounsfield().T, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], r"voxel axes do not span space"),
        (hounsfield().T.astype(np.complex64), None, r"complex values"),
    ],
)
def test_rejected_geometry(tmp_path, values, affine, message):
    path = save(tmp_path / "a.nii", values, affine if affine is None else np.array(affine))
    assert find_series(path)[0].verdict.decision == "reject"
    with pytest.raises(GeometryRejected, match=message):
        read_scan(path)


def test_affine_of_nan(tmp_path):
    path = save(tmp_path / "a.nii", hounsfield().T)
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    path.write_bytes(content)
    with pytest.raises(GeometryRejected, match=r"voxel sizes or positions that are NaN or infinite"):
        read_scan(path)


def test_colour(tmp_path):
    rgb = np.zeros((9, 7, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(GeometryRejected, match=r"3 values a voxel, not one"):
        read_scan(save(tmp_path / "a.nii", rgb))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_text_in_disguise(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text("not a scan at all, only words " * 30)
    with pytest.raises(NotAScan, match=rf"a\.{suffix}: not a .* in spite of its name; expected NIfTI\.$"):
        read_scan(path)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"")
    with pytest.raises(UnreadableScan, match=r"a\.[\w.]+: empty file"):
        read_scan(path)


@pytest.mark.parametrize(
    ("suffix", "kept"), [("nii", 400), ("nii", 900), ("nii.gz", 30), ("nii.gz", 400), ("nii.gz", -6)]
)
def test_truncated(tmp_path, suffix, kept):
    path = save(tmp_path / f"a.{suffix}", hounsfield().T)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UnreadableScan, match=r"a\.nii(\.gz)?: truncated or corrupt NIfTI file"):
        read_scan(path)


def test_wrong_checksum(tmp_path):
    """Nibabel stops before gzip's checksum and would hand over the damaged values."""
    path = save(tmp_path / "a.nii.gz", hounsfield((20, 30, 40)).T)
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF
    path.write_bytes(content)
    np.asanyarray(nibabel.load(path).dataobj)
    with pytest.raises(UnreadableScan, match=r"truncated or corrupt NIfTI file \(BadGzipFile\)"):
        read_scan(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(tmp_path, value):
    values = hounsfield().astype(np.float32)
    values[1, 2, 3] = values[4, 0, 0] = value
    with pytest.raises(UnusableVoxels, match=r"2 of 315 voxels are NaN or infinite; expected finite values\.$"):
        read_scan(save(tmp_path / "a.nii", values.T))


def test_nothing_is_printed(tmp_path, capfd):
    path = save(tmp_path / "a.nii", hounsfield().T, pixdim=[0, 0.7, 0.9, 2.5, 0, 0, 0, 0])
    read_scan(path)
    assert capfd.readouterr() == ("", "")


# Units, and what a header says twice ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "factor", "unit"), [(0, 1.0, ""), (2, 1.0, ""), (10, 1.0, ""), (1, 1e-3, "m"), (3, 1e3, "um")]
)
@pytest.mark.parametrize("sform", [0, 1])
def test_units_of_length(tmp_path, code, factor, unit, sform):
    affine = np.diag([-0.7 * factor, -0.9 * factor, 2.5 * factor, 1.0])
    affine[:3, 3] = np.array((3, 4, 5)) * factor
    path = save(tmp_path / "a.nii", hounsfield().T, affine, sform=sform, qform=1 - sform, xyzt_units=code)
    volume = read_scan(path)
    expected = np.diag([0.7, 0.9, 2.5, 1.0])
    expected[:3, 3] = (-3, -4, 5)
    np.testing.assert_allclose(volume.affine, expected, rtol=1e-5)
    remark = f": lengths are stated in {unit} and were converted to mm" if unit else ""
    assert str(volume.verdict) == f"accept{remark}" == str(find_series(path)[0].verdict)
    if unit:
        reference = SimpleITK.ReadImage(path)
        np.testing.assert_allclose(volume.spacing_mm, reference.GetSpacing(), rtol=1e-4)


@pytest.mark.parametrize(
    ("code", "message"),
    [(1, r"voxels of 700 x 900 x 2500 mm"), (3, r"voxels of 0\.0007 x"), (5, r"not all in one of mm, cm, m, um")],
)
def test_units_that_cannot_be(tmp_path, code, message):
    path = save(tmp_path / "a.nii", hounsfield().T, xyzt_units=code)
    assert find_series(path)[0].verdict.decision == "reject"
    with pytest.raises(GeometryRejected, match=message):
        read_scan(path)


def twice(path, qform_affine, **header):
    image = nibabel.Nifti1Image(hounsfield().T, np.diag([-0.7, -0.9, 2.5, 1.0]))
    image.set_sform(np.diag([-0.7, -0.9, 2.5, 1.0]), 1)
    image.set_qform(qform_affine, 1)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def test_sform_and_qform_that_agree_say_nothing(tmp_path):
    almost = np.diag([-0.7, -0.9, 2.5, 1.0])
    almost[2, 3] = 0.2
    assert str(read_scan(twice(tmp_path / "a.nii", almost)).verdict) == "accept"


def test_sform_against_qform_is_remarked(tmp_path):
    moved = np.diag([-0.7, -0.9, 2.5, 1.0])
    moved[2, 3] = 12.0
    path = twice(tmp_path / "a.nii", moved)
    volume = read_scan(path)
    assert str(volume.verdict) == "accept: sform and qform place the voxels up to 12.0 mm apart: sform is used"
    assert find_series(path)[0].verdict == volume.verdict
    assert volume.affine[2, 3] == 0


def test_sform_that_mirrors_qform_is_rejected(tmp_path):
    path = twice(tmp_path / "a.nii", np.diag([0.7, -0.9, 2.5, 1.0]))
    with pytest.raises(GeometryRejected, match=r"sform and qform mirror each other: left and right are not known"):
        read_scan(path)


def test_a_qform_without_a_rotation_is_passed_over(tmp_path):
    path = twice(tmp_path / "a.nii", np.diag([-0.7, -0.9, 2.5, 1.0]), quatern_b=2.0, quatern_c=2.0)
    assert str(read_scan(path).verdict) == "accept"


def test_pixdim_against_sform_is_remarked(tmp_path):
    path = save(tmp_path / "a.nii", hounsfield().T, pixdim=[1, 0.7, 0.9, 5.0, 0, 0, 0, 0])
    expected = "accept: pixdim states voxels of 0.7 x 0.9 x 5 mm, the affine 0.7 x 0.9 x 2.5 mm: the affine is used"
    assert str(read_scan(path).verdict) == expected


# Lies about size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_header_that_claims_more_voxels_than_there_are(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", hounsfield().T)
    opened = gzip.open if suffix == "nii.gz" else open
    with opened(path, "rb") as file:
        content = bytearray(file.read())
    content[42:48] = np.array([30000] * 3, np.int16).tobytes()
    with opened(path, "wb") as file:
        file.write(content)
    with pytest.raises(UnreadableScan, match=r"a\.[\w.]+: truncated or corrupt NIfTI file"):
        read_scan(path)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_header_that_leaves_slices_out(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", hounsfield().T)
    opened = gzip.open if suffix == "nii.gz" else open
    with opened(path, "rb") as file:
        content = bytearray(file.read())
    content[46:48] = np.int16(4).tobytes()
    with opened(path, "wb") as file:
        file.write(content)
    with pytest.raises(UnreadableScan, match=r"a\.[\w.]+: NIfTI file with more than padding behind its 856 bytes"):
        read_scan(path)


def test_what_follows_the_voxels_takes_no_memory(tmp_path):
    path = save(tmp_path / "a.nii.gz", hounsfield().T)
    with gzip.open(path, "rb") as file:
        content = file.read()
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(content)
        for _ in range(16):
            file.write(bytes(1 << 24))
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(read_scan(path).voxels, hounsfield())
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_a_file_that_changes_later_does_not_change_what_was_read(tmp_path):
    path = save(tmp_path / "a.nii", hounsfield().T)
    volume = read_scan(path)
    with path.open("r+b") as file:
        file.seek(352)
        file.write(bytes(hounsfield().nbytes))
    np.testing.assert_array_equal(volume.voxels, hounsfield())
