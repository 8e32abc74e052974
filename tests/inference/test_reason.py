"""What the verdict says of a scan that is used stands beside its prediction."""

import nibabel
import numpy as np
from command_line import read_rows
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.inference import load_bundle


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
