"""Source scans: one orientation, one hash for any file format, written and read back."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from med_transfer.errors import NotAScan, ScanNotFound
from med_transfer.pretraining import SourceScans, read_source
from med_transfer.scans import Provenance, Volume, geometry


def volume(voxels: np.ndarray, affine: np.ndarray) -> Volume:
    return Volume(voxels, affine, Provenance(Path("scan"), "nifti"))


def body(shape=(20, 40, 36)) -> np.ndarray:
    voxels = np.full(shape, -1000, np.int16)
    voxels[4:16, 10:30, 8:28] = 50
    voxels[5, 11, 9] = 900
    return voxels


AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])


def test_the_same_scan_stored_another_way_is_one_scan():
    flipped = AFFINE.copy()
    flipped[:3, 1] *= -1
    flipped[1, 3] = 39 * 1.5
    source = SourceScans.from_volumes([volume(body(), AFFINE), volume(body()[:, ::-1], flipped)])
    assert len(source) == 1
    assert source.content_hashes[0] == volume(body(), AFFINE).content_hash


def test_coarse_scans_stay_as_they_are_and_air_is_cut_away():
    (scan,) = SourceScans.from_volumes([volume(body(), AFFINE)], spacing_mm=1.0).scans
    assert scan.spacing_mm == (3.0, 1.5, 1.5)
    assert scan.voxels.shape == (18, 34, 34)  # 10 mm of air are kept where there are 10 mm
    assert (scan.voxels == 900).sum() == 1


def test_fine_scans_are_brought_to_the_spacing():
    fine = np.kron(body(), np.ones((1, 3, 3), np.int16))
    (scan,) = SourceScans.from_volumes([volume(fine, np.diag([0.5, 0.5, 3.0, 1.0]))], spacing_mm=1.5).scans
    (plain,) = SourceScans.from_volumes([volume(body(), AFFINE)], spacing_mm=1.5).scans
    np.testing.assert_allclose(scan.spacing_mm, plain.spacing_mm)
    assert scan.voxels.shape == plain.voxels.shape
    assert np.abs(scan.voxels[:, 12:20, 12:20].astype(int) - plain.voxels[:, 12:20, 12:20]).max() < 60


def test_saved_scans_come_back(chest, tmp_path):
    chest.save(tmp_path / "source.npz")
    again = read_source(tmp_path / "source.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["source.npz"]
    assert again.content_hashes == chest.content_hashes
    for ours, theirs in zip(again.scans, chest.scans, strict=True):
        np.testing.assert_array_equal(ours.voxels, theirs.voxels)
        assert ours.spacing_mm == theirs.spacing_mm


def test_a_folder_is_read_and_bad_scans_are_left_out(tmp_path, caplog):
    image = nib.Nifti1Image(body().T, geometry.swap_lps_ras(AFFINE))
    nib.save(image, tmp_path / "good.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes()[:200])
    source = read_source(tmp_path)
    assert source.content_hashes == (volume(body(), AFFINE).content_hash,)


def test_nothing_to_learn_from_is_said(tmp_path):
    with pytest.raises(ScanNotFound, match="no scan to learn from"):
        read_source(tmp_path)
    with pytest.raises(ScanNotFound, match=r"source\.npz: no such file"):
        read_source(tmp_path / "source.npz")
    (tmp_path / "source.npz").write_bytes(b"no archive")
    with pytest.raises(NotAScan, match=r"source\.npz: not a file of source scans"):
        read_source(tmp_path / "source.npz")


def test_what_a_scan_teaches_is_told_where_there_is_anything(chest, labelled):
    assert chest.taught == ()
    assert len(set(labelled.taught)) == len(labelled)


def test_nothing_is_run_that_a_file_of_scans_brings_along(chest, tmp_path):
    """An array of objects is a pickle, which may hold any program."""
    chest.save(tmp_path / "source.npz")
    with np.load(tmp_path / "source.npz") as file:
        arrays = dict(file)
    for name in arrays:
        foreign = arrays | {name: np.array([None], dtype=object)}
        np.savez(tmp_path / "foreign.npz", **foreign)
        with pytest.raises(NotAScan, match=r"foreign\.npz: not a file of source scans"):
            read_source(tmp_path / "foreign.npz")
