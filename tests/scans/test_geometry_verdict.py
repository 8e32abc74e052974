"""Each way in which slices fail to form a volume has its own reason, naming slices and distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_series import hounsfield, plane_affine, write_series
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from med_transfer.errors import GeometryRejected
from med_transfer.scans import find_series, read_scan
from med_transfer.scans.dicom.codecs import PixelFormat
from med_transfer.scans.dicom.geometry_verdict import MIN_SLICES, slices_verdict
from med_transfer.scans.dicom.header import Slice, StoredPixels
from med_transfer.scans.dicom.slice_geometry import arrange


def verdict_of(folder) -> str:
    (series,) = find_series(folder)
    return str(series.verdict)


def at(number, **tags):
    """A change to the slice of that number (from 1)."""

    def change(k, dataset):
        if k == number - 1:
            for keyword, value in tags.items():
                setattr(dataset, keyword, value)

    return change


def test_missing_slice_names_the_gap(tmp_path):
    write_series(tmp_path, offsets=[0, 1, 2, 4, 5])
    assert verdict_of(tmp_path) == "reject: 1 slice missing: gap 5.00 mm between slices 3 and 4, others 2.50 mm"


@pytest.mark.parametrize("mm", [0.02, 0.04])
def test_a_slice_of_micro_ct_that_is_missing(tmp_path, mm):
    affine = plane_affine(spacing_mm=(mm, mm, mm))
    write_series(tmp_path / "whole", affine=affine)
    assert read_scan(tmp_path / "whole").spacing_mm == pytest.approx((mm, mm, mm))
    write_series(tmp_path / "less", affine=affine, offsets=[0, 1, 2, 4, 5])
    with pytest.raises(GeometryRejected, match=f"1 slice missing: gap {2 * mm:.2f} mm between slices 3 and 4"):
        read_scan(tmp_path / "less")


def test_several_missing_slices(tmp_path):
    write_series(tmp_path, hounsfield((8, 7, 9)), offsets=[0, 1, 2, 5, 6, 7, 9, 10])
    assert verdict_of(tmp_path) == (
        "reject: 3 slices missing: gap 7.50 mm between slices 3 and 4, 5.00 mm between slices 6 and 7, others 2.50 mm"
    )


def test_uneven_gaps_are_listed(tmp_path):
    write_series(tmp_path, hounsfield((6, 7, 9)), offsets=[0, 1, 2, 2.5, 4.2, 5.9])
    assert verdict_of(tmp_path) == (
        "reject: uneven gaps: 2.50 mm from 1 to 3, 1.25 mm between slices 3 and 4, 4.25 mm from 4 to 6"
    )


def test_slices_that_nearly_coincide_are_no_missing_ones(tmp_path):
    """0.03 mm apart: 0 times the usual gap, within the tolerance, as no two slices are."""
    write_series(tmp_path, hounsfield((6, 7, 9)), offsets=[0, 1, 1.012, 2, 3, 4])
    assert verdict_of(tmp_path) == (
        "reject: uneven gaps: 2.50 mm between slices 1 and 2, 0.03 mm between slices 2 and 3, "
        "2.47 mm between slices 3 and 4, 2.50 mm from 4 to 6"
    )


@pytest.mark.parametrize(("off_mm", "decision"), [(0.04, "accept"), (0.06, "reject")])
def test_tolerance_of_the_spacing(tmp_path, off_mm, decision):
    write_series(tmp_path, offsets=[0, 1, 2 + off_mm / 2.5, 3 + off_mm / 2.5, 4 + off_mm / 2.5])
    assert find_series(tmp_path)[0].verdict.decision == decision


def test_drift_that_adds_up(tmp_path):
    """Every gap is within tolerance of the usual one, but the slices end far from where one affine puts them."""
    gaps = np.repeat([2.5, 2.545], 40)
    offsets = np.concatenate([[0], np.cumsum(gaps)]) / 2.5
    write_series(tmp_path, hounsfield((81, 4, 4)), offsets=offsets)
    assert "reject: spacing drifts: slice 41 lies 0.90 mm from its place in a regular volume" in verdict_of(tmp_path)


def test_sideways_shift(tmp_path):
    write_series(tmp_path, change=at(4, ImagePositionPatient=[-30.0, -42.25, 115.5]))
    assert verdict_of(tmp_path) == "reject: slices shift sideways unevenly: 1.50 mm between slices 3 and 4"


def test_different_images_at_one_position(tmp_path):
    write_series(tmp_path, hounsfield((6, 7, 9)), offsets=[0, 1, 1, 2, 3, 4])
    assert verdict_of(tmp_path) == (
        "reject: different images at one position: slices 2 and 3; the series may hold several acquisitions"
    )


def test_same_stored_pixels_with_other_rescale_are_different_images(tmp_path):
    hu = hounsfield()[[0, 1, 1, 2, 3, 4]]
    write_series(tmp_path, hu, offsets=[0, 1, 1, 2, 3, 4], change=at(3, RescaleIntercept=0))
    assert "different images at one position" in verdict_of(tmp_path)


def test_mixed_orientations(tmp_path):
    write_series(tmp_path, change=at(2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]))
    assert verdict_of(tmp_path) == "reject: mixed orientations: slice 2 (1 0 0 0 0 -1), the others (1 0 0 0 1 0)"


def test_rounded_orientations_are_one(tmp_path):
    write_series(tmp_path, change=at(2, ImageOrientationPatient=[1, 0.0004, 0, -0.0004, 1, 0]))
    assert verdict_of(tmp_path) == "accept"


def test_skewed_orientation(tmp_path):
    write_series(tmp_path, ImageOrientationPatient=[1, 0, 0, 0.1, 0.99, 0])
    assert verdict_of(tmp_path) == "reject: ImageOrientationPatient is not two perpendicular unit vectors"


def test_mixed_matrix_sizes(tmp_path):
    def smaller(k, dataset):
        if k in (1, 3):
            dataset.Rows, dataset.PixelData = 4, dataset.PixelData[: 4 * 9 * 2]

    write_series(tmp_path, change=smaller)
    assert verdict_of(tmp_path) == "reject: mixed matrix sizes: slices 2, 4 9 x 4, the others 9 x 7"


def test_mixed_pixel_spacings(tmp_path):
    write_series(tmp_path, change=at(5, PixelSpacing=[0.9, 0.75]))
    assert verdict_of(tmp_path) == "reject: mixed pixel spacings: slice 5 0.9 x 0.75 mm, the others 0.9 x 0.7 mm"


@pytest.mark.parametrize("spacing", [[0, 0.7], [-0.9, 0.7]])
def test_pixel_spacing_must_be_positive(tmp_path, spacing):
    write_series(tmp_path, PixelSpacing=spacing)
    assert verdict_of(tmp_path) == "reject: PixelSpacing is not positive"


@pytest.mark.parametrize("number", [1, 2])
def test_too_few_slices(tmp_path, number):
    assert number < MIN_SLICES
    write_series(tmp_path, hounsfield((number, 7, 9)))
    assert verdict_of(tmp_path) == f"reject: {number} slice{'s' if number > 1 else ''}, fewer than 3"


def test_missing_position(tmp_path):
    def strip(k, dataset):
        del dataset.ImagePositionPatient
        dataset.PixelSpacing = None

    write_series(tmp_path, change=strip)
    assert verdict_of(tmp_path) == "reject: ImagePositionPatient and PixelSpacing missing or unreadable"


def test_several_frames_of_reference(tmp_path):
    write_series(tmp_path, change=at(1, FrameOfReferenceUID="1.2.3"))
    assert verdict_of(tmp_path) == "reject: several frames of reference, so that positions cannot be compared"


def test_a_frame_of_reference_of_its_own_for_each_image_means_nothing(tmp_path):
    write_series(tmp_path, change=lambda k, d: setattr(d, "FrameOfReferenceUID", f"1.2.{k + 1}"))
    assert verdict_of(tmp_path) == "accept: each image names its own frame of reference, which is ignored"
    assert read_scan(tmp_path).provenance.frame_of_reference == ""


@pytest.mark.parametrize("modality", ["CR", "DX", "OT", "NM"])
def test_other_modalities(tmp_path, modality):
    write_series(tmp_path, modality=modality)
    assert verdict_of(tmp_path) == f"reject: modality {modality} is not one of CT, MR, PT"


def test_colour(tmp_path):
    def rgb(k, dataset):
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = bytes(3 * 7 * 9) + b"\0"

    write_series(tmp_path, change=rgb)
    assert verdict_of(tmp_path) == "reject: colour images, not measured values"


def test_multi_frame(tmp_path):
    def two_frames(k, dataset):
        dataset.NumberOfFrames, dataset.PixelData = 2, dataset.PixelData * 2

    write_series(tmp_path, change=two_frames)
    assert verdict_of(tmp_path).startswith("reject: multi-frame images that do not say where each frame lies")


def test_lookup_table(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "HU", b"\0\0\1\0"
    write_series(tmp_path, ModalityLUTSequence=[table])
    assert verdict_of(tmp_path) == "reject: values are coded through a Modality LUT Sequence, which is not supported"


def test_declared_tilt_that_the_positions_do_not_show(tmp_path):
    write_series(tmp_path, GantryDetectorTilt="18.5")
    assert verdict_of(tmp_path) == (
        "accept: the header declares a gantry tilt of 18.5 degrees, the positions show none"
    )


def test_rejected_series_are_not_decoded(tmp_path):
    """The pixels here are rubbish: only a reader that leaves them alone gets as far as the verdict."""
    write_series(tmp_path, offsets=[0, 1, 2, 4, 5], PixelData=b"", Rows=2, Columns=2, BitsAllocated=1)
    with pytest.raises(GeometryRejected, match=r"1 slice missing: gap 5\.00 mm between slices 3 and 4"):
        read_scan(tmp_path)


@given(st.permutations(range(6)), st.sampled_from(["axial", "coronal", "oblique"]))
def test_verdict_does_not_depend_on_order(order, plane):
    affine = plane_affine(plane)
    slices = [_header(k, tuple(affine[:3, 3] + k * affine[:3, 2]), affine) for k in (0, 1, 2, 3, 4.7, 5)]
    expected = slices_verdict(arrange(slices))
    assert "uneven gaps" in str(expected)
    assert slices_verdict(arrange([slices[n] for n in order])) == expected


def _header(number, position_mm, affine) -> Slice:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return Slice(
        path=Path(f"{number}.dcm"),
        sop_uid=str(number),
        study_uid="1",
        series_uid="1.1",
        frame_of_reference="2",
        modality="CT",
        image_type=(),
        stamp=(0, 0),
        pixels=StoredPixels(PixelFormat("1.2.840.10008.1.2", 7, 9, 1, 16, 16, signed=True)),
        position_mm=position_mm,
        orientation=(*axes[:, 0], *axes[:, 1]),
        spacing_mm=(0.9, 0.7),
        slope=1.0,
        intercept=0.0,
        rescale_type="HU",
        has_lookup_table=False,
        tilt_degrees=0.0,
        acquisition=(),
        phase=(),
    )
