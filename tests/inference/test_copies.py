"""Identical scans are found, and each file is read once, however many have the same size."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from med_transfer.cohorts import Case, Cohort
from med_transfer.inference import copies
from med_transfer.inference.copies import Copies
from med_transfer.phantoms.dicom_series import write_dicom_series
from med_transfer.scans import find_series


def originals(folder: Path, contents: list[bytes]) -> list[str]:
    """By a scan's name, its content's number."""
    seen, found = Copies(), []
    for number, content in enumerate(contents):
        path = folder / f"{number}.nii"
        path.write_bytes(content)
        found.append(seen.original(Case(scan=str(number), path=path, patient="", label=None), None, str(number)))
    return found


@given(contents=st.lists(st.sampled_from([b"aa", b"ab", b"b", b"", b"ba", b"c" * 70_000, b"c" * 69_999 + b"d"])))
def test_the_first_of_equal_scans_is_the_original_of_all(tmp_path_factory, contents):
    assert originals(tmp_path_factory.mktemp("scans"), contents) == [str(contents.index(one)) for one in contents]


def test_what_differs_beyond_the_sample_is_no_copy(tmp_path):
    middle = [bytearray(1 << 20) for _ in range(3)]
    middle[1][1 << 18] = 1
    assert originals(tmp_path, [bytes(one) for one in middle]) == ["0", "1", "0"]


def test_scans_of_one_size_are_read_once_each(tmp_path, monkeypatch):
    read = []
    content = copies._content
    monkeypatch.setattr(copies, "_content", lambda files, sample=0: read.append(files) or content(files, sample))
    originals(tmp_path, [number.to_bytes(2) for number in range(200)])
    assert len(read) == 200


@pytest.mark.parametrize("gone", [0, 1])
def test_a_scan_that_is_gone_is_left_to_its_reader(tmp_path, gone):
    seen, paths = Copies(), [tmp_path / f"{number}.nii" for number in range(2)]
    cases = [Case(scan=path.name, path=path, patient="", label=None) for path in paths]
    for path in paths:
        path.write_bytes(b"same")
    assert seen.original(cases[0], None, "0") == "0"
    paths[gone].unlink()
    assert seen.original(cases[1], None, "1") == "1"


def test_rows_of_a_table_are_copies_whichever_lines_they_stand_on(tmp_path):
    seen = Copies()
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii").write_bytes(b"same")
    (tmp_path / "t.csv").write_text("scan,patient,age\na.nii,1,50\nb.nii,2,50\n")
    first, second = Cohort.read(tmp_path / "t.csv", labelled=False).cases
    assert seen.original(first, None, "first") == "first"
    assert seen.original(second, None, "second") == "first"
    assert seen.original(replace(second, columns={"age": "60"}), None, "older") == "older"


@pytest.mark.parametrize("name", ["scan.mhd", "scan.nhdr", "scan.img", "scan.dcm"])
def test_a_file_that_need_not_hold_all_of_its_scan_is_no_copy(tmp_path, name):
    """Equal headers of different voxels, which lie in files beside them."""
    seen = Copies()
    for number in range(2):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        path.write_bytes(b"ElementDataFile = scan.raw")
        case = Case(scan=str(number), path=path, patient="", label=None)
        assert seen.original(case, None, str(number)) == str(number)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    voxels = np.random.default_rng(0).normal(0, 300, (8, 8, 8)).astype(np.int16)
    for name in "ab":
        write_dicom_series(tmp_path / name, voxels, np.eye(4))
    seen, series = Copies(), find_series(tmp_path)
    series[1].files[0].unlink()
    os.mkfifo(series[1].files[0])
    for one in series:
        assert seen.original(Case(str(one.path), one.path, "", None), one, str(one.path)) == str(one.path)
