"""A bundle for a single organ: batch, training scans, heat map; a scan without the organ gets a row."""

import json

import nibabel
import numpy as np
import pytest
from command_line import read_rows, write_rows
from tiny_bundle import tiny_bundle
from whole_bodies import as_volume, head, plain_chest, plain_head, voxel_points

import med_transfer as mt
from med_transfer.cohorts import Cohort, prepare_cohort
from med_transfer.metrics.compute_metrics import _failed
from med_transfer.phantoms import write_nifti
from med_transfer.preprocessing import Preprocessing

LOOK = {
    "region": "brain",
    "isolate": True,
    "modality": "CT",
    "window_hu": (0, 80),
    "spacing_mm": None,
    "fit": "proportional",
}
NO_BRAIN = "brain not found (volume)"


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    volumes = {"chest": plain_chest(), "large": plain_head(), "small": head(size=0.8)}
    for name, volume in volumes.items():
        write_nifti(folder / f"{name}.nii.gz", volume.voxels, volume.affine)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("organ") / "bundle", **LOOK)


def test_a_scan_without_the_organ_is_a_rejected_row_and_the_others_go_on(bundle, scans, command, tmp_path):
    outcome = command("predict", bundle, scans, "-o", tmp_path / "out")
    assert outcome.code == 1
    looks = "input.region: brain, the network looks at the brain in each CT and at nothing else"
    assert outcome.out.splitlines()[0] == looks
    rows = {row["scan"]: row for row in read_rows(tmp_path / "out/predictions.csv")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "chest.nii.gz": "rejected",
        "large.nii.gz": "ok",
        "small.nii.gz": "ok",
    }
    assert rows["chest.nii.gz"]["reason"].startswith(f"chest.nii.gz: {NO_BRAIN}; expected 300 to 2200 ml")


def test_training_counts_it_and_sees_of_the_others_what_inference_sees(bundle, scans, tmp_path):
    rows = [{"scan": path.name, "patient": path.name, "label": "ab"[n % 2]} for n, path in enumerate(scans.iterdir())]
    cohort = Cohort.read(write_rows(scans / "cohort.csv", rows))
    preprocessing = mt.load_bundle(bundle).preprocessing
    prepared = prepare_cohort(cohort, preprocessing, tmp_path / "prepared", (1, 2, 2))
    counted = _failed(prepared.failed)
    assert (counted.n, counted.found) == (1, {NO_BRAIN: 1})
    for case, scan in zip(prepared.cohort.cases, prepared.without_margin((1, 2, 2)).scans, strict=True):
        seen = preprocessing(mt.read_scan(case.path)).numpy()
        np.testing.assert_array_equal(scan.tensor, seen.astype(np.float16))
        assert scan.voxel_mm == preprocessing.grid(mt.read_scan(case.path)).voxel_mm
        assert scan.voxel_mm[1] == scan.voxel_mm[2] != scan.voxel_mm[0]


def test_a_map_lies_on_the_brain_in_the_scans_own_voxels(bundle, scans, command, tmp_path):
    path = scans / "large.nii.gz"
    found = command("explain", bundle, path, "-o", tmp_path / "out", "--draws", "1")
    assert found.code == 0, found.err
    volume, written = mt.read_scan(path), nibabel.load(tmp_path / "out/map.nii.gz")
    np.testing.assert_allclose(written.affine, nibabel.load(path).affine, atol=1e-4)
    heat, grid = written.get_fdata().T, Preprocessing(mt.load_bundle(bundle).preprocessing.config).grid(volume)
    seen = as_volume(np.ones(grid.shape, np.int16), grid.affine)
    points, voxel = voxel_points(seen), np.array(grid.voxel_mm[::-1])
    low, high = points.min(axis=(0, 1, 2)) - voxel, points.max(axis=(0, 1, 2)) + voxel
    peak = json.loads((tmp_path / "out/explanation.json").read_text())["peak_lps_mm"]
    hot = np.vstack([voxel_points(volume)[heat > 0], peak])
    assert len(hot) > 1
    assert ((hot >= low) & (hot <= high)).all()
    assert (high - low < 220).all()  # about the brain, not the head


def test_explaining_several_counts_the_one_without_the_organ(bundle, scans, command, tmp_path):
    outcome = command("explain", bundle, scans, "-o", tmp_path / "out", "--draws", "0")
    assert outcome.code == 1
    reasons = [row["reason"] for row in read_rows(tmp_path / "out/explanations.csv")]
    assert sum(NO_BRAIN in reason for reason in reasons) == 1
