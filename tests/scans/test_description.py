"""A series in words: numbers as another library gives them, and nothing about the patient."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_series import hounsfield, plane_affine, write_series
from hospital_export import export_series, leaks

from med_transfer.scans import Provenance, Volume, find_series, read_scan, survey
from med_transfer.scans.search.description import (
    count_files,
    describe_acquisition,
    describe_series,
    describe_volume,
    is_hounsfield,
    sample,
    states_contrast,
)


def volume(voxels: np.ndarray, modality: str = "CT") -> Volume:
    return Volume(voxels, np.eye(4), Provenance("x", "nifti", modality=modality))


def test_rows_of_a_series(tmp_path):
    write_series(tmp_path / "ct", hounsfield((5, 7, 9)), plane_affine("coronal"), series_uid="1.2.3")
    (series,) = find_series(tmp_path)
    assert describe_series(series) == {
        "series": str(tmp_path / "ct"),
        "series_uid": "1.2.3",
        "kind": "dicom CT",
        "files": "5",
        "verdict": "accept",
    }
    rows = describe_volume(read_scan(series))
    low, middle, high = np.percentile(hounsfield((5, 7, 9)), [1, 50, 99])
    assert rows["values"] == f"1 % {low:.0f}, median {middle:.0f}, 99 % {high:.0f} HU"
    assert rows["voxels"] == "9 x 7 x 5 (column, row, slice)"
    assert rows["spacing_mm"] == "0.700 x 0.900 x 2.500"
    assert rows["orientation"].startswith("LIP ")


def test_acquisition_in_words():
    rows = describe_acquisition({"SliceThickness": "5.000000", "KVP": "120", "ContrastBolusAgent": "JANE DOE'S DRINK"})
    assert rows == {"slice thickness": "5 mm", "tube voltage": "120 kV", "contrast agent": "stated"}
    assert describe_acquisition({}) == {}


@pytest.mark.parametrize(("agent", "stated"), [("Iohexol", True), ("", False), ("none ", False), ("NO", False)])
def test_contrast_agent(agent, stated):
    assert states_contrast({"ContrastBolusAgent": agent}) is stated


def test_nothing_of_the_patient_in_words(tmp_path):
    export_series(tmp_path)
    (series,) = find_series(tmp_path)
    said = str([describe_series(series), describe_acquisition(series.acquisition), describe_volume(read_scan(series))])
    assert leaks(said) == []
    assert "PHANTOM" not in said


def test_hounsfield_units_where_they_are_meant_or_look_like_it():
    body = np.full((20, 20, 20), -1000, np.int16)
    body[5:15, 5:15, 5:15] = 40
    assert is_hounsfield(volume(body, ""))
    assert not is_hounsfield(volume(body + 1000, ""))
    assert is_hounsfield(volume(body + 1000, "CT"))  # wrong, but as stored: the verdict says so
    assert not is_hounsfield(volume(body, "MR"))


@pytest.mark.parametrize("shape", [(5, 7, 9), (40, 512, 256), (3, 1024, 2048), (1, 4_000_001, 1)])
def test_sample_is_bounded_and_from_everywhere(shape):
    columns = np.broadcast_to(np.arange(shape[2], dtype=np.int16), shape)
    found = sample(np.ascontiguousarray(columns))
    assert min(columns.size, 1_000_000) <= found.size <= 2_000_000 or found.size == columns.size
    assert found.mean() == pytest.approx((shape[2] - 1) / 2, rel=0.01)
    assert len(np.unique(found)) == shape[2]


def test_files_are_counted_once(tmp_path):
    export_series(tmp_path / "a")
    export_series(tmp_path / "b")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8b" + bytes(range(200)))
    assert count_files(survey(tmp_path)) == len([path for path in tmp_path.rglob("*") if path.is_file()])
