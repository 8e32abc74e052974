"""A folder with everything that ends a naive reader: each gets a row, and the good scans are predicted."""

from __future__ import annotations

import os
import struct
import subprocess

import nibabel
import numpy as np
import pytest
from command_line import read_rows
from dicom_series import hounsfield, write_series
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.inference import load_bundle
from med_transfer.scans import survey

IMAGES = 5


def header_of(shape: tuple[int, int, int]) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["sform_code"], header["srow_x"], header["srow_y"], header["srow_z"] = 1, *np.eye(3, 4)
    return header.binaryblock + bytes(4)


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_CACHE", "off")
    folder = tmp_path / "scans"
    write_scan(folder / "good.nii.gz")
    write_series(folder / "good", hounsfield((8, 20, 20)))
    (folder / "page.nii.gz").write_text("<html><body>404</body></html>")
    (folder / "page.mha").write_text("<html><body>404</body></html>")
    (folder / "claims.nii").write_bytes(header_of((10_000, 10_000, 10_000)) + bytes(1000))
    extension = bytearray(header_of((8, 8, 8))[:348] + b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 6) + bytes(3000))
    extension[108:112] = struct.pack("<f", 1000.0)
    (folder / "extension.nii").write_bytes(extension)
    os.mkfifo(folder / "pipe.nii")
    os.mkfifo(folder / "pipe")
    for name, cosines in (("zero", [0.0] * 6), ("parallel", [1.0, 0.0, 0.0] * 2)):
        for modality in ("CT", "MR", "US"):
            write_series(folder / f"{name}-{modality}", modality=modality, ImageOrientationPatient=cosines)
    write_series(folder / "tiny", PixelSpacing=[1e-9, 1e-9])
    return folder


BAD = {
    "page.nii.gz": "failed",
    "page.mha": "failed",
    "claims.nii": "failed",
    "extension.nii": "failed",
    "pipe.nii": "failed",
    **{f"{name}-{modality}": "rejected" for name in ("zero", "parallel") for modality in ("CT", "MR", "US")},
    "tiny": "rejected",
}


def test_each_is_a_row_of_predict_and_the_good_ones_are_predicted(hostile, tmp_path, reading_processes):
    outcome = load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu").predict_folder(hostile, tmp_path / "out")
    rows = {row["scan"]: row for row in read_rows(tmp_path / "out/predictions.csv")}
    assert {scan: row["status"] for scan, row in rows.items()} == {**BAD, "good": "ok", "good.nii.gz": "ok"}
    assert all(row["reason"] for row in rows.values() if row["status"] != "ok")
    assert (outcome.n_ok, outcome.n_ignored) == (2, 1)  # the pipe that is not named as an image


def test_each_is_a_row_of_index_and_of_inspect(hostile, command, tmp_path):
    outcome = command("index", hostile, "-o", hostile / "cohort.csv")
    rows = read_rows(hostile / "cohort.quality.csv")
    verdicts = {row["scan"]: row["verdict"] for row in rows}
    assert outcome.code == 1, outcome.err
    assert verdicts.keys() == {*BAD, "good", "good.nii.gz", "pipe"}
    assert {scan for scan, verdict in verdicts.items() if verdict == "accept"} == {"good", "good.nii.gz"}
    outcome = command("inspect", hostile)
    assert outcome.code == 1, outcome.err
    assert all(f"{hostile / scan}" in outcome.out for scan in BAD)


def test_a_thousand_folders_deep_there_is_still_a_scan(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_CACHE", "off")
    scan, folder = write_scan(tmp_path / "deep.nii.gz"), tmp_path / "tree"
    try:
        for _ in range(1100):
            folder = folder / "d"
        subprocess.run(["mkdir", "-p", folder], check=True)
        scan.rename(folder / "deep.nii.gz")
        assert [series.path for series in survey(tmp_path / "tree").series] == [folder / "deep.nii.gz"]
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "tree"], check=True)  # shutil.rmtree calls itself for every level


def test_headers_that_nobody_can_put_together_cost_their_own_series_only(tmp_path, monkeypatch):
    from med_transfer.scans.search import survey as searching

    write_series(tmp_path / "a", series_uid="1.2.3")
    write_series(tmp_path / "b", series_uid="1.2.4")
    put_together = searching.all_series

    def failing(slices, *arguments):
        if any(slice_.series_uid == "1.2.4" for slice_ in slices):
            raise RecursionError("of a kind that nobody thought of")
        return put_together(slices, *arguments)

    monkeypatch.setattr(searching, "all_series", failing)
    found = survey(tmp_path)
    assert [series.series_uid for series in found.series] == ["1.2.3"]
    assert len(found.ignored) == IMAGES
    assert all(file.damaged and "RecursionError" in file.reason for file in found.ignored)


def test_a_header_that_fails_at_the_second_look_is_a_row_of_index(command, tmp_path, monkeypatch):
    write_series(tmp_path / "scans/a", hounsfield((8, 20, 20)), PatientID="7")
    write_series(tmp_path / "scans/b", hounsfield((8, 20, 20), 1), PatientID="8")
    from med_transfer.cohorts import indexing

    look, second = indexing.survey, sorted((tmp_path / "scans/b").iterdir())

    def then_damage(*arguments, **options):
        found = look(*arguments, **options)
        for path in second:
            path.write_bytes(path.read_bytes()[:140])
        return found

    monkeypatch.setattr(indexing, "survey", then_damage)
    outcome = command("index", tmp_path / "scans", "-o", tmp_path / "cohort.csv")
    assert outcome.code == 1, outcome.err
    (row,) = (row for row in read_rows(tmp_path / "cohort.quality.csv") if row["verdict"] == "reject")
    assert "header has changed since the series was found" in row["reasons"]
    assert len(read_rows(tmp_path / "cohort.csv")) == 1


def test_an_error_that_nobody_foresaw_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    predictor = load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu")
    scans = [write_scan(tmp_path / f"scans/{number}.nii.gz", number) for number in range(3)]
    answer = type(predictor).answer

    def failing(self, given, *arguments):
        if given.path == str(scans[1]):
            raise ZeroDivisionError("of Mrs Miller, born 19500101")  # as a parser may quote a header
        return answer(self, given, *arguments)

    monkeypatch.setattr(type(predictor), "answer", failing)
    outcome = predictor.predict_folder(scans[0].parent, tmp_path / "out")
    assert (outcome.n_ok, outcome.n_failed) == (2, 1)
    table, log = ((tmp_path / "out" / name).read_text() for name in ("predictions.csv", "run.log"))
    assert "cannot be processed (ZeroDivisionError in test_hostile_folder.py line " in table
    assert "Miller" not in table + log
    monkeypatch.undo()
    outcome = predictor.predict_folder(scans[0].parent, tmp_path / "out")
    assert (outcome.n_ok, outcome.n_failed) == (3, 0)
