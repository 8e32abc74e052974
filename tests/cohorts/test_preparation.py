"""What is recorded of a scan that cannot be used."""

from pathlib import Path

import pytest

from med_transfer.cohorts import Case, without_prediction
from med_transfer.errors import UnreadableScan

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
