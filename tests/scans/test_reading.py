"""The single entry point for every format, and each way in which it can refuse."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicom_series import PLANES, as_image, hounsfield, plane_affine, write_series
from hypothesis import given, settings
from hypothesis import strategies as st

from med_transfer.errors import (
    AmbiguousScan,
    GeometryRejected,
    NotAScan,
    ScanAborted,
    ScanNotFound,
    UnreadableScan,
    UnusableVoxels,
)
from med_transfer.scans import find_series, read_scan, reading, survey


@settings(max_examples=12)
@given(
    st.sampled_from(list(PLANES)),
    st.tuples(st.integers(3, 5), st.integers(2, 6), st.integers(2, 6)),
    st.integers(0, 9),
    st.sampled_from(["nii", "nii.gz", "nrrd", "mha"]),
)
def test_dicom_and_its_twin_agree(plane, shape, seed, suffix):
    hu, affine = hounsfield(shape, seed), plane_affine(plane)
    with tempfile.TemporaryDirectory() as name:
        write_series(Path(name, "dicom"), hu, affine)
        baseline = Path(name, f"baseline.{suffix}")
        SimpleITK.WriteImage(as_image(hu, affine), baseline)
        first, second = read_scan(Path(name, "dicom")), read_scan(baseline)
    np.testing.assert_array_equal(first.voxels, second.voxels)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)
    assert first.content_hash == second.content_hash
    assert first.orientation == second.orientation


def test_content_hash_survives_stored_axes(tmp_path):
    """A baseline that stores the axes in another order and direction is still the same scan."""
    image = as_image(hounsfield(), plane_affine())
    SimpleITK.WriteImage(image, tmp_path / "a.nii.gz")
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, "SAR"), tmp_path / "b.nii.gz")
    first, second = read_scan(tmp_path / "a.nii.gz"), read_scan(tmp_path / "b.nii.gz")
    assert first.voxels.shape != second.voxels.shape
    assert first.content_hash == second.content_hash


def test_content_hash_sees_one_voxel(tmp_path):
    hu = hounsfield()
    write_series(tmp_path / "a", hu)
    hu[1, 2, 3] += 1
    write_series(tmp_path / "b", hu)
    assert read_scan(tmp_path / "a").content_hash != read_scan(tmp_path / "b").content_hash


def test_a_folder_of_many_series_is_looked_through_once_until_a_file_in_it_changes(tmp_path, monkeypatch):
    """Else a table with a row a series costs the square of the folder: hours for a PACS export without subfolders."""
    looks = []
    monkeypatch.setattr(reading, "survey", lambda *given, **named: looks.append(given) or survey(*given, **named))
    for number in range(3):
        names = [f"{number}-{k}.dcm" for k in range(5)]
        write_series(tmp_path, hounsfield(seed=number), names=names, series_uid=f"1.2.{number}")
    for number in range(3):
        np.testing.assert_array_equal(read_scan(tmp_path, f"1.2.{number}").voxels, hounsfield(seed=number))
    assert len(looks) == 1
    write_series(tmp_path, hounsfield(seed=7), names=[f"1-{k}.dcm" for k in range(5)], series_uid="1.2.1")
    np.testing.assert_array_equal(read_scan(tmp_path, "1.2.1").voxels, hounsfield(seed=7))
    assert len(looks) == 2


def test_by_folder_string_and_series(tmp_path):
    write_series(tmp_path / "study" / "ct")
    (series,) = find_series(tmp_path)
    for source in (tmp_path, str(tmp_path / "study"), series):
        np.testing.assert_array_equal(read_scan(source).voxels, hounsfield())


def test_missing_path(tmp_path):
    with pytest.raises(ScanNotFound, match=r"absent: no such file or folder\.$"):
        read_scan(tmp_path / "absent")


def test_empty_folder(tmp_path):
    with pytest.raises(
        ScanNotFound, match=rf"{tmp_path.name}: no image among 0 files; expected DICOM, NIfTI, NRRD or MetaImage\.$"
    ):
        read_scan(tmp_path)


def test_folder_of_text(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ScanNotFound, match=f"{tmp_path.name}: no image among 1 file;"):
        read_scan(tmp_path)


def test_text_named_dcm(tmp_path):
    (tmp_path / "scan.dcm").write_text("patient was fine")
    with pytest.raises(UnreadableScan, match=r"scan\.dcm: named as DICOM, but it is text"):
        read_scan(tmp_path / "scan.dcm")
    (tmp_path / "scan.dcm").rename(tmp_path / "scan")
    with pytest.raises(NotAScan, match=r"scan: not an image file; expected DICOM, NIfTI, NRRD or MetaImage\.$"):
        read_scan(tmp_path / "scan")


def test_several_series_need_a_choice(tmp_path):
    write_series(tmp_path, series_uid="1.2.3")
    write_series(tmp_path, -hounsfield(), series_uid="1.2.4", names=["1", "2", "3", "4", "5"])
    message = (
        r"\d: 2 usable series: 1\.2\.3 \(CT, 5 slices\), 1\.2\.4 \(CT, 5 slices\); expected one series\. Name one of"
    )
    with pytest.raises(AmbiguousScan, match=message):
        read_scan(tmp_path)
    np.testing.assert_array_equal(read_scan(tmp_path, "1.2.4").voxels, -hounsfield())
    with pytest.raises(ScanNotFound, match=rf"{tmp_path.name}: no series 1\.2\.5\.$"):
        read_scan(tmp_path, "1.2.5")


def test_copies_need_a_folder(tmp_path):
    write_series(tmp_path / "x", series_uid="1.2.3")
    write_series(tmp_path / "y", series_uid="1.2.3", PatientID="another")
    with pytest.raises(AmbiguousScan, match=rf"{tmp_path.name}: .*Name the folder or file of one of them\.$"):
        read_scan(tmp_path, "1.2.3")


def test_the_usable_series_is_taken(tmp_path):
    write_series(tmp_path / "good", series_uid="1.2.3")
    write_series(tmp_path / "bad", series_uid="1.2.4", offsets=[0, 1, 2, 4, 5])
    assert read_scan(tmp_path).provenance.series_uid == "1.2.3"
    with pytest.raises(GeometryRejected, match=r"1 slice missing"):
        read_scan(tmp_path, "1.2.4")


def test_no_usable_series_gives_every_reason(tmp_path):
    write_series(tmp_path / "a", series_uid="1.2.3", modality="CR")
    write_series(tmp_path / "b", series_uid="1.2.4", offsets=[0, 1, 2, 4, 5])
    with pytest.raises(
        GeometryRejected,
        match=rf"{tmp_path.name}: none of 2 series is usable \(1\.2\.3: modality CR .* 1\.2\.4: 1 slice missing",
    ):
        read_scan(tmp_path)


def test_of_very_many_unusable_series_the_first_few_are_told(tmp_path):
    for number in range(350):
        write_series(tmp_path, hounsfield((1, 3, 3)), names=[f"{number}.dcm"], series_uid=f"1.2.{number + 1}")
    with pytest.raises(
        GeometryRejected, match=rf"{tmp_path.name}: none of 350 series is usable \(1\.2\.1: 1 slice, .* and 344 more\)"
    ) as raised:
        read_scan(tmp_path)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_rejected_series_says_why_and_what_to_do(tmp_path):
    write_series(tmp_path, offsets=[0, 1, 2, 4, 5])
    message = (
        r"1 slice missing: gap 5\.00 mm .*expected one regular volume .* Export the series again, or leave it out\.$"
    )
    with pytest.raises(GeometryRejected, match=message):
        read_scan(tmp_path)


def test_one_file_of_a_series(tmp_path):
    path = write_series(tmp_path)[0]
    with pytest.raises(GeometryRejected, match=r"slice000\.dcm: 1 slice, fewer than 3"):
        read_scan(path)


def test_file_of_another_series(tmp_path):
    path = write_series(tmp_path, series_uid="1.2.3")[0]
    with pytest.raises(ScanNotFound, match=r"slice000\.dcm: the file is not of series 1\.2\.4"):
        read_scan(path, "1.2.4")


def test_mask_beside_the_slices_is_not_ambiguous(tmp_path):
    write_series(tmp_path)
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), tmp_path / "mask.nii.gz")
    assert read_scan(tmp_path).provenance.format == "dicom"


def test_folder_with_volume_files(tmp_path):
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, hounsfield())
    SimpleITK.WriteImage(as_image(hounsfield(), plane_affine()), tmp_path / "b.nrrd")
    with pytest.raises(
        AmbiguousScan, match=rf"{tmp_path.name}: .*a\.nii\.gz \(nifti, 5 slices\), b\.nrrd \(nrrd, 5 slices\)"
    ):
        read_scan(tmp_path)


def test_files_that_vanish_after_the_search(tmp_path):
    paths = write_series(tmp_path)
    (series,) = find_series(tmp_path)
    paths[2].unlink()
    with pytest.raises(ScanAborted, match=r"slice002\.dcm"):
        read_scan(series)


def test_files_that_change_after_the_search(tmp_path):
    write_series(tmp_path)
    (series,) = find_series(tmp_path)
    write_series(tmp_path, offsets=[0, 1, 2, 4, 5])
    with pytest.raises(UnreadableScan, match=r"slice000\.dcm: has changed since the folder was looked through"):
        read_scan(series)


def test_constant_voxels(tmp_path):
    write_series(tmp_path, np.full((4, 5, 6), 40, np.int16))
    with pytest.raises(UnusableVoxels, match=r"every voxel is 40; expected an image\.$"):
        read_scan(tmp_path)


def test_rescale_that_is_no_number(tmp_path):
    path = write_series(tmp_path, slopes=[1, 1, 1.25, 1, 1])[2]
    path.write_bytes(path.read_bytes().replace(b"1.25", b"nan "))
    with pytest.raises(UnreadableScan, match=r"slice002\.dcm: damaged DICOM header \(ValueError\)"):
        read_scan(tmp_path)
