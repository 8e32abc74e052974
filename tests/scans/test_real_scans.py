"""Real scans, if their folder is available, against the results of SimpleITK and dicom2nifti."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from dicom_series import read_with_simpleitk

from med_transfer.errors import GeometryRejected
from med_transfer.scans import find_series, read_scan, survey

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif("MED_TRANSFER_DATA" not in os.environ, reason="MED_TRANSFER_DATA names no folder of real scans"),
]
DICOM = Path(os.environ.get("MED_TRANSFER_DATA", ".")) / "dicom"
MR = DICOM / "mr_generic_and_compressed"


@pytest.mark.parametrize("folder", ["ct_abdomen_crlm_1004", "ct_jpeg2000_20_slices"])
def test_ct_equals_simpleitk(folder):
    (series,) = find_series(DICOM / folder)
    volume = read_scan(series)
    voxels, affine = read_with_simpleitk(series.path)
    np.testing.assert_array_equal(volume.voxels, np.where(voxels < -1024, -1024, voxels))  # padding lies below
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert volume.verdict.decision == "accept"
    assert "InstanceNumber lacks 1 to " in str(volume.verdict)  # a part of each scan was published
    assert volume.voxels.dtype == np.int16


@pytest.mark.parametrize(
    "folder",
    [
        "anatomical/001",
        "anatomical/001_implicit",
        "anatomical/002_non_isotropic",
        "compressed/001",
        "compressed_j2k/001",
        "compressed_jpeg/001",
        "compressed_jpegls/001",
        "compressed_rle/001",
    ],
)
def test_mr_equals_its_nifti_twin(folder):
    volume, baseline = read_scan(MR / folder), read_scan(MR / f"{folder}_ground_truth.nii.gz")
    assert volume.provenance.modality == "MR"
    assert volume.verdict.decision == "accept"  # with remarks: these are a few slices of each series
    assert volume.content_hash == baseline.content_hash


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("bad/ct_missing_slice", r"1 slice missing: gap 10\.00 mm between slices 3 and 4, others 5\.00 mm"),
        ("ct_head_ge_tilt_variable_spacing", r"uneven gaps: 4\.00 mm from 1 to 14, 1\.08 mm between slices 14 and 15"),
        ("mr_generic_and_compressed/rgb/001", r"colour images, not measured values"),
    ],
)
def test_rejected(folder, reason):
    with pytest.raises(GeometryRejected, match=reason):
        read_scan(DICOM / folder)


def test_tilt_without_tag_is_straightened():
    volume = read_scan(DICOM / "bad" / "ct_tilt_without_tag")
    assert volume.verdict.decision == "repair"
    assert "gantry tilt of 14.0 degrees (the header declares none)" in str(volume.verdict)


def test_the_same_series_in_five_encodings_is_not_mixed_up():
    found = [one for one in survey(MR).series if one.format == "dicom"]
    assert len(found) == 9
    assert {one.n_slices for one in found} == {4}
    assert len({one.series_uid for one in found}) < len(found)


@pytest.mark.parametrize("cohort", ["lidc_nodules", "sts_ct"])
def test_nifti_cohorts_are_accepted(cohort):
    found = survey(DICOM.parent / cohort)
    assert len(found.series) > 50
    assert {str(one.verdict) for one in found.series} == {"accept"}
    assert not any(one.damaged for one in found.ignored)
