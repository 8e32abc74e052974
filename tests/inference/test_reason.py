"""The verdict on a scan that is used is given beside its prediction."""

import nibabel
import numpy as np
from command_line import locked, read_rows
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.cohorts.input_facts import sample_hash
from med_transfer.inference import load_bundle
from med_transfer.inference.predictor import LEARNED_FROM
from med_transfer.scans import read_scan


def test_remarks_on_a_scan_stand_in_its_row(tmp_path):
    image = nibabel.load(write_scan(tmp_path / "scans/plain.nii.gz"))
    affine = image.affine @ np.diag([1000.0, 1000.0, 1000.0, 1.0])
    in_microns = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    in_microns.header.set_xyzt_units("micron")
    nibabel.save(in_microns, tmp_path / "scans/microns.nii.gz")
    predictor = load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu")
    predictor.predict_folder(tmp_path / "scans", tmp_path / "out")
    reasons = {row["scan"]: row["reason"] for row in read_rows(tmp_path / "out/predictions.csv")}
    assert reasons == {"plain.nii.gz": "", "microns.nii.gz": "lengths are stated in um and were converted to mm"}
    assert predictor.predict(tmp_path / "scans/microns.nii.gz").reason == reasons["microns.nii.gz"]


def test_a_scan_that_the_bundle_has_learned_from_is_said_to_be_one_whatever_it_is_called(command, tmp_path):
    """What it answers there tells nothing of other scans."""
    learned = write_scan(tmp_path / "learned.nii")
    bundle = tiny_bundle(tmp_path / "bundle", learned_from=(sample_hash(read_scan(learned)),))
    image = nibabel.load(learned)
    turned = image.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]]))  # other axes, in another format
    (tmp_path / "scans").mkdir()
    nibabel.save(turned, tmp_path / "scans/copy.nii.gz")
    write_scan(tmp_path / "scans/other.nii.gz", seed=1)
    outcome = command("predict", bundle, tmp_path / "scans", "-o", tmp_path / "out")
    assert (outcome.code, outcome.err.count(LEARNED_FROM)) == (0, 1)
    assert {row["scan"]: row["reason"] for row in read_rows(tmp_path / "out/predictions.csv")} == {
        "copy.nii.gz": LEARNED_FROM,
        "other.nii.gz": "",
    }


def test_a_run_tells_its_bundle_which_scans_it_has_learned_from_and_not_its_test_scans(
    command, finished, cohort_csv, tmp_path
):
    command("predict", finished.bundle, cohort_csv, "-o", tmp_path)
    said = {row["scan"] for row in read_rows(tmp_path / "predictions.csv") if LEARNED_FROM in row["reason"]}
    cases = locked(finished.folder, [row["scan"] for row in read_rows(cohort_csv)])
    assert said == {scan for scan, case in cases.items() if case.role != "test"} != set()
