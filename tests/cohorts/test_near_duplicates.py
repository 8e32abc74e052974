"""Altered copies of a scan are noticed across a split; scans of other patients are not mistaken for copies."""

import csv
import os
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from med_transfer.backbones import find_backbone
from med_transfer.cohorts import Cohort, Split
from med_transfer.cohorts.near_duplicates import near_duplicates
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import prepare_run_data
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.scans import Volume, read_scan

SEE = Preprocessing(PreprocessingConfig(shape=(24, 48, 48)))


def altered(scan: Volume, how: str) -> Volume:
    voxels = scan.voxels.astype(np.float32)
    new = {
        "one slice fewer": lambda: voxels[1:],
        "plus 1": lambda: voxels + 1,
        "softer": lambda: ndimage.gaussian_filter(voxels, (0, 0.8, 0.8)),
        "noisier": lambda: voxels + np.random.default_rng(0).normal(0, 20, voxels.shape),
    }[how]()
    return replace(scan, voxels=new.astype(np.float32))


@pytest.fixture(scope="module")
def phantoms(cohort_csv) -> list[Volume]:
    return [read_scan(case.path, case.series_uid) for case in Cohort.read(cohort_csv).cases[:8]]


@pytest.mark.parametrize("how", ["one slice fewer", "plus 1", "softer", "noisier"])
def test_a_copy_on_the_other_side_is_found(phantoms, how):
    scans = [*phantoms, altered(phantoms[2], how)]
    assert near_duplicates([SEE(scan).numpy() for scan in scans], Split((8,), (tuple(range(8)),))) == [(2, 8)]


def test_a_copy_on_the_same_side_is_no_leak(phantoms):
    tensors = [SEE(scan).numpy() for scan in (*phantoms, altered(phantoms[2], "plus 1"))]
    assert near_duplicates(tensors, Split((0,), (tuple(range(1, 9)),))) == []


def test_scans_without_any_contrast_are_no_copies():
    assert near_duplicates([np.full((1, 8, 8, 8), value) for value in (0.0, 0.5, 1.0)], Split((0,), ((1, 2),))) == []


def test_a_run_names_the_rows_of_copies_and_no_others(phantoms, cohort_csv, tmp_path, caplog):
    rows = list(csv.DictReader(cohort_csv.read_text().splitlines()))
    for number, row in enumerate(rows):
        earlier = sum(other["label"] == row["label"] for other in rows[:number])
        row |= {"scan": str(cohort_csv.parent / row["scan"]), "split": ("train", "val", "test")[earlier % 3]}
    copy = altered(phantoms[3], "one slice fewer")
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ copy.affine
    nibabel.save(nibabel.Nifti1Image(copy.voxels.transpose(2, 1, 0), to_ras), tmp_path / "copy.nii.gz")
    other_side = "train" if rows[3]["split"] == "test" else "test"
    rows.append(rows[3] | {"scan": "copy.nii.gz", "patient": "somebody else", "split": other_side})
    with (tmp_path / "cohort.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config = FinetuneConfig.model_validate({"input": {"shape": (16, 32, 32), "region": "whole"}})
    run_data = prepare_run_data(
        Cohort.read(tmp_path / "cohort.csv"), config, find_backbone("resnet18-w8"), tmp_path / "run", lambda *_: None
    )
    (warning,) = [record.getMessage() for record in caplog.records if "altered copies" in record.getMessage()]
    assert re.search(r"copies \(.*\): row 5 \([^,]* with row 20 \(copy.nii.gz\)\. ", warning)
    assert "somebody else" not in warning
    assert run_data.altered_copies == ((5, 20),)


@pytest.mark.real_data
@pytest.mark.skipif("MED_TRANSFER_DATA" not in os.environ, reason="MED_TRANSFER_DATA names no folder of real scans")
def test_real_copies_are_found_and_no_other_patient():
    paths = sorted((Path(os.environ["MED_TRANSFER_DATA"]) / "head_ct" / "scans").glob("*.nii.gz"))[:20]
    scans = [read_scan(path) for path in paths]
    ways = ["one slice fewer", "plus 1", "softer", "noisier"]
    tensors = [SEE(scan).numpy() for scan in [*scans, *(altered(scans[5 + n], how) for n, how in enumerate(ways))]]
    split = Split((20, 21, 22, 23), (tuple(range(10)), tuple(range(10, 20))))
    assert near_duplicates(tensors, split) == [(5, 20), (6, 21), (7, 22), (8, 23)]
