"""Enhanced multi-frame CT and MR, as highdicom and pydicom write them, equal the single-frame series they came from."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from dicom_series import hounsfield, plane_affine, write_series
from enhanced_objects import enhanced, item
from highdicom.legacy.sop import LegacyConvertedEnhancedCTImage
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from med_transfer.errors import AmbiguousScan, GeometryRejected, UnreadableScan
from med_transfer.scans import find_series, read_scan


@pytest.mark.parametrize("plane", ["axial", "axial feet first", "coronal", "sagittal", "oblique"])
@pytest.mark.parametrize("ct", [True, False], ids=["ct", "mr"])
def test_frames_in_any_order(tmp_path, plane, ct):
    hu, affine = hounsfield((6, 7, 9)), plane_affine(plane)
    order = [3, 0, 5, 1, 4, 2]
    path = enhanced(tmp_path / "e.dcm", hu, affine, order=order, per_frame_orientation=plane == "axial", ct=ct)
    volume = read_scan(path)
    np.testing.assert_array_equal(volume.voxels, hu)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert (volume.provenance.modality, volume.verdict.decision) == ("CT" if ct else "MR", "accept")
    assert read_scan(tmp_path).content_hash == volume.content_hash


def test_without_preamble(tmp_path):
    hu, path = hounsfield((6, 7, 9)), tmp_path / "e.dcm"
    dataset = pydicom.dcmread(enhanced(path, hu, plane_affine()))
    dataset.preamble, dataset.file_meta = None, pydicom.dataset.FileMetaDataset()
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_scan(path).voxels, hu)


def test_rescale_frame_by_frame(tmp_path):
    hu = hounsfield((5, 7, 9)) // 6 * 6 - 4  # so that every slope meets whole stored values
    path = enhanced(tmp_path / "e.dcm", hu, plane_affine(), slopes=[1, 2, 3, 6, 1])
    np.testing.assert_array_equal(read_scan(path).voxels, hu)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_frames(tmp_path, syntax):
    hu = hounsfield((4, 40, 33))
    path = enhanced(tmp_path / "e.dcm", hu, plane_affine(), order=[2, 0, 3, 1])
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_scan(path).voxels, hu)


def test_phases_in_one_object(tmp_path):
    hu = hounsfield((10, 7, 9))
    order, phases = [9, 0, 8, 1, 7, 2, 6, 3, 5, 4], [1] * 5 + [2] * 5
    path = enhanced(tmp_path / "e.dcm", hu, plane_affine(), order=order, phases=phases)
    assert {one.part for one in find_series(tmp_path)} == {"TemporalPositionIndex 1", "TemporalPositionIndex 2"}
    with pytest.raises(AmbiguousScan, match="2 usable series"):
        read_scan(path)
    for number, part in ((1, hu[:5]), (2, hu[5:])):
        np.testing.assert_array_equal(read_scan(path, f"1.2.3#TemporalPositionIndex {number}").voxels, part)


def test_a_volume_beside_what_is_none_in_one_object_is_found_by_the_file_s_path_as_by_its_folder(tmp_path):
    hu = hounsfield((10, 7, 9))

    def turn_the_last_frame(dataset):
        group = dataset.PerFrameFunctionalGroupsSequence[-1]
        group.PlaneOrientationSequence = [item(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])]

    path = enhanced(tmp_path / "e.dcm", hu, plane_affine(), change=turn_the_last_frame)
    assert [one.verdict.usable for one in find_series(path)] == [True, False]
    for source in (path, tmp_path):
        np.testing.assert_array_equal(read_scan(source).voxels, hu[:-1])


def test_missing_frame(tmp_path):
    hu, affine = hounsfield((6, 7, 9)), plane_affine()

    def drop(dataset):
        del dataset.PerFrameFunctionalGroupsSequence[2]
        dataset.NumberOfFrames = 5
        stored = np.frombuffer(dataset.PixelData, np.int16).reshape(6, 7, 9)
        dataset.PixelData = np.delete(stored, 2, axis=0).tobytes()

    path = enhanced(tmp_path / "e.dcm", hu, affine, change=drop)
    with pytest.raises(GeometryRejected, match=r"1 slice missing: gap 5\.00 mm between slices 2 and 3"):
        read_scan(path)


def test_more_frames_declared_than_described(tmp_path):
    def one_more(dataset):
        dataset.NumberOfFrames = 6

    path = enhanced(tmp_path / "e.dcm", hounsfield((5, 7, 9)), plane_affine(), change=one_more)
    with pytest.raises(UnreadableScan, match=r"e\.dcm: 6 frames declared, 5 described"):
        read_scan(path)


def test_truncated_object(tmp_path):
    path = enhanced(tmp_path / "e.dcm", hounsfield((5, 7, 9)), plane_affine())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableScan, match=r"truncated: 430 bytes of pixels, 630 needed"):
        read_scan(path)


def test_frames_that_are_smaller_than_their_pixels(tmp_path):
    """One bit in Columns shifts every line of every frame."""
    path = enhanced(
        tmp_path / "e.dcm", hounsfield((5, 7, 9)), plane_affine(), change=lambda d: setattr(d, "Columns", 8)
    )
    with pytest.raises(UnreadableScan, match=r"e\.dcm: 630 bytes of pixels instead of 560, and more than padding"):
        read_scan(path)


def test_frames_of_an_unknown_representation(tmp_path):
    path = enhanced(tmp_path / "e.dcm", hounsfield((5, 7, 9)), plane_affine())
    path.write_bytes(path.read_bytes().replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00OG"))
    with pytest.raises(UnreadableScan, match=r"pixels cannot be decoded \(NotImplementedError\)"):
        read_scan(path)


def test_legacy_converted_ct_as_highdicom_makes_it(tmp_path):
    hu, affine = hounsfield((6, 7, 9)), plane_affine("oblique")
    names = ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "PatientSex", "ReferringPhysicianName")
    empty = dict.fromkeys(names, "")
    tags = {"Manufacturer": "A", "SeriesNumber": 1, "ContentDate": "20200101", "ContentTime": "101500"}
    paths = write_series(tmp_path / "single", hu, affine, **empty, **tags)
    legacy = LegacyConvertedEnhancedCTImage(
        [pydicom.dcmread(path) for path in paths], generate_uid(), 2, generate_uid(), 1
    )
    (tmp_path / "multi").mkdir()
    legacy.save_as(tmp_path / "multi" / "e.dcm")
    volume, single = read_scan(tmp_path / "multi"), read_scan(tmp_path / "single")
    np.testing.assert_array_equal(volume.voxels, single.voxels)
    np.testing.assert_allclose(volume.affine, single.affine, atol=1e-5)


@pytest.mark.parametrize("where", ["shared", "own"])
def test_only_the_standard_macros_say_where_a_frame_lies(tmp_path, where):
    """Makers add sequences whose positions are those of voxel corners, and references to images that lie elsewhere."""
    hu, affine = hounsfield((6, 7, 9)), plane_affine()

    def add(dataset):
        shared = dataset.SharedFunctionalGroupsSequence
        for group in shared if where == "shared" else dataset.PerFrameFunctionalGroupsSequence:
            elsewhere = item(
                ImagePositionPatient=[0, 0, 0],
                ImageOrientationPatient=[0, 1, 0, 0, 0, 1],
                PixelSpacing=[9, 9],
                RescaleSlope=7,
                RescaleIntercept=5,
                EchoTime=3.5,
            )
            block = group.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
            block.add_new(0x0F, "SQ", Sequence([elsewhere]))
            group.RealWorldValueMappingSequence = Sequence([elsewhere])
            group.ReferencedImageSequence = Sequence([elsewhere])

    path = enhanced(tmp_path / "e.dcm", hu, affine, change=add)
    volume = read_scan(path)
    np.testing.assert_array_equal(volume.voxels, hu)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert "EchoTime" not in volume.provenance.acquisition
