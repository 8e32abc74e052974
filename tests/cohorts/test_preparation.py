"""What is recorded for an unusable scan, and reported for one that was filed twice."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from med_transfer.cohorts import Case, Cohort, prepare_cohort, read_input, without_prediction
from med_transfer.errors import UnreadableScan
from med_transfer.phantoms import write_nifti
from med_transfer.phantoms.ct_header import SeriesDetails
from med_transfer.phantoms.dicom_series import write_dicom_series
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import read_scan

CASE = Case(
    scan="DOE_JOHN/ct.nii.gz",
    path=Path("/data/DOE_JOHN/ct.nii.gz"),
    patient="P1",
    label="a",
    mask=Path("/data/masks/DOE_JOHN.nii.gz"),
)


@pytest.mark.parametrize(
    ("where", "reason", "problem"),
    [
        ("/data/DOE_JOHN/ct.nii.gz", "DOE_JOHN/ct.nii.gz: cut off.", "cut off."),
        ("/data/masks/DOE_JOHN.nii.gz", "DOE_JOHN.nii.gz: cut off.", "mask: cut off."),
        ("/other/DOE_JOHN.raw", "/other/DOE_JOHN.raw: cut off.", "cut off."),
    ],
)
def test_what_is_counted_in_a_report_names_no_file_and_the_prediction_table_does(where, reason, problem):
    recorded = without_prediction(CASE, UnreadableScan("cut off", where=where))
    assert (recorded.reason, recorded.problem, recorded.found) == (reason, problem, problem.rstrip("."))


def test_a_path_within_the_words_is_no_name_in_a_report_either():
    error = UnreadableScan("/data/masks/DOE_JOHN.nii.gz is on another grid than /data/DOE_JOHN/ct.nii.gz")
    recorded = without_prediction(CASE, error)
    assert recorded.problem == "mask is on another grid than scan."
    assert recorded.reason == "DOE_JOHN.nii.gz is on another grid than DOE_JOHN/ct.nii.gz."


@pytest.mark.parametrize(("modality", "told"), [("MR", False), ("PT", False), ("CT", True), (None, True)])
def test_that_values_are_no_hounsfield_units_is_told_only_where_they_should_be(tmp_path, modality, told):
    voxels = np.random.default_rng(0).integers(1, 250, (8, 16, 16)).astype(np.int16)
    for name in ("first.nii.gz", "second.nrrd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), tmp_path / name)
        case = Case(name, tmp_path / name, "P1", None)
        notes = read_input(case, PreprocessingConfig(modality=modality, shape=(8, 8, 8))).notes
        assert ("do not look like Hounsfield units" in notes) == told
        assert "do not look like Hounsfield units" in str(read_scan(tmp_path / name).verdict)


def test_one_image_under_two_patients_is_warned_of(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for name in ("first", "other"):
        write_nifti(tmp_path / f"{name}.nii.gz", rng.integers(-50, 90, (8, 16, 16)).astype(np.int16), np.eye(4))
    shutil.copy(tmp_path / "first.nii.gz", tmp_path / "filed-twice.nii.gz")
    header = "scan,patient,label\n"
    rows = {"first": "P1", "other": "P2", "filed-twice": "P3"}
    preprocessing = Preprocessing(PreprocessingConfig(shape=(8, 8, 8), region="whole"))

    def warned(rows: dict[str, str], labels: str = "aba") -> list[str]:
        table = tmp_path / "cohort.csv"
        table.write_text(
            header
            + "".join(
                f"{scan}.nii.gz,{patient},{label}\n"
                for (scan, patient), label in zip(rows.items(), labels, strict=True)
            )
        )
        caplog.clear()
        prepare_cohort(Cohort.read(table), preprocessing, tmp_path / "prepared")
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    (said,) = warned(rows)
    assert said.startswith("identical images under two patients: row 2 (first.nii.gz) with row 4 (filed-twice.nii.gz).")
    assert warned(rows | {"filed-twice": "P1"}) == []  # two rows of one patient
    (said,) = warned(rows | {"filed-twice": "P1"}, labels="abb")
    assert said.startswith(
        "identical images with different labels: row 2 (first.nii.gz) with row 4 (filed-twice.nii.gz)."
    )


@pytest.mark.parametrize(("patients", "warned"), [(("P1", "P2"), True), (("P1", "P1"), False)])
def test_one_study_under_two_patients_is_warned_of(tmp_path, caplog, patients, warned):
    """A study is of one person: two series of it under two names would be parted by a split."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("thin", "thick")):
        details = SeriesDetails(patient="0001", seed=1, series=number)
        voxels = rng.integers(-50, 90, (8, 16, 16)).astype(np.int16)
        write_dicom_series(tmp_path / name, voxels, np.diag([2.0, 2.0, 2.0, 1.0]), details=details)
    table = tmp_path / "cohort.csv"
    table.write_text(f"scan,patient,label\nthin,{patients[0]},a\nthick,{patients[1]},b\n")
    prepare_cohort(
        Cohort.read(table), Preprocessing(PreprocessingConfig(shape=(8, 8, 8), region="whole")), tmp_path / "prepared"
    )
    said = [record.getMessage() for record in caplog.records if "one study" in record.getMessage()]
    assert bool(said) == warned
    assert all("row 2 (thin) with row 3 (thick)" in text for text in said)
