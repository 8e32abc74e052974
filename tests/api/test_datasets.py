"""Cohorts by name: phantoms, and files in MedMNIST's layout, from a real server on this machine."""

import hashlib
import http.server
import threading
from dataclasses import replace
from functools import partial

import nibabel
import numpy as np
import pytest

import med_transfer as mt
from med_transfer.api import datasets
from med_transfer.errors import DatasetNotFound, OutputError

NAME = "fracturemnist3d"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        return


@pytest.fixture
def published(tmp_path, monkeypatch):
    """What is served in the place of the published file: 6, 3 and 3 scans of three classes."""
    rng, arrays = np.random.default_rng(3), {}
    for split, n in (("train", 6), ("val", 3), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n, dtype=np.uint8)[:, None] % 3
    folder = tmp_path / "served"
    folder.mkdir()
    np.savez_compressed(folder / f"{NAME}.npz", **arrays)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    md5 = hashlib.md5((folder / f"{NAME}.npz").read_bytes()).hexdigest()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setitem(datasets.PUBLIC, NAME, replace(datasets.PUBLIC[NAME], md5=md5, address=address))
    yield arrays
    server.shutdown()
    server.server_close()


def test_phantoms_are_made_once(tmp_path):
    table = mt.datasets.fetch("phantoms", tmp_path / "chest")
    cohort = mt.Cohort.read(table)
    assert len(cohort.labels.names) == 3
    assert min(patients for _, patients in cohort.counts().values()) >= 12
    before = table.stat().st_mtime_ns
    assert mt.datasets.fetch("phantoms", tmp_path / "chest") == table
    assert table.stat().st_mtime_ns == before


def test_a_table_of_another_cohort_is_not_taken_for_it(published, tmp_path):
    mt.datasets.fetch("phantoms", tmp_path / "chest")
    own = tmp_path / "own/cohort.csv"
    own.parent.mkdir()
    own.write_text("scan,patient,label,split\na.nii,1,yes,train\n")
    for name, folder in ((NAME, "chest"), (NAME, "own"), ("phantoms", "own")):
        with pytest.raises(OutputError, match=f"another cohort is there; expected a folder for {name} alone"):
            mt.datasets.fetch(name, tmp_path / folder)
    own.write_text("no table")
    with pytest.raises(OutputError, match="another cohort is there"):
        mt.datasets.fetch("phantoms", own.parent)


def test_a_public_set_becomes_a_cohort_with_its_own_split(published, tmp_path):
    seen = []
    table = mt.datasets.fetch(NAME, tmp_path / "ribs", lambda *told: seen.append(told))
    cohort = mt.Cohort.read(table)
    assert sorted(cohort.labels.names) == sorted(datasets.PUBLIC[NAME].labels)
    assert [case.split for case in cohort.cases].count("train") == 6
    for case, image in zip(cohort.cases[6:9], published["val_images"], strict=True):
        assert case.split == "val"
        voxels = np.asarray(nibabel.load(case.path).dataobj).transpose(2, 1, 0)
        np.testing.assert_array_equal(voxels, image)
    assert seen[-1][1] == 12
    assert mt.datasets.fetch(NAME, tmp_path / "ribs") == table


def test_a_file_that_was_brought_by_hand_is_taken_and_another_is_not(published, tmp_path):
    folder = tmp_path / "ribs"
    folder.mkdir()
    (folder / f"{NAME}.npz").write_bytes(b"something else")
    with pytest.raises(DatasetNotFound, match=r"fracturemnist3d\.npz: MD5 [0-9a-f]{32}; expected [0-9a-f]{32}\. Rem"):
        mt.datasets.fetch(NAME, folder)
    (folder / f"{NAME}.npz").write_bytes((tmp_path / f"served/{NAME}.npz").read_bytes())
    assert mt.Cohort.read(mt.datasets.fetch(NAME, folder)).labels.names


def test_without_a_connection_it_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    nobody = replace(datasets.PUBLIC[NAME], address="http://127.0.0.1:9")
    monkeypatch.setitem(datasets.PUBLIC, NAME, nobody)
    with pytest.raises(
        DatasetNotFound,
        match=r"^http://127\.0\.0\.1:9/\w+\.npz: cannot be downloaded \(.*refused.*\)\. Fetch it on .*/ribs\.$",
    ):
        mt.datasets.fetch(NAME, tmp_path / "ribs")
    monkeypatch.setitem(datasets.PUBLIC, NAME, replace(nobody, address="ftp://127.0.0.1"))
    with pytest.raises(
        DatasetNotFound, match=r"^ftp://127\.0\.0\.1/fracturemnist3d\.npz: cannot be downloaded \(an address of ftp\)"
    ):
        mt.datasets.fetch(NAME, tmp_path / "ribs")


def test_a_name_that_is_none_and_a_folder_of_another_set(published, tmp_path):
    with pytest.raises(DatasetNotFound, match="ribs: no such data set; expected one of phantoms, nodulemnist3d"):
        mt.datasets.fetch("ribs", tmp_path)
    table = mt.datasets.fetch(NAME, tmp_path / "ribs")
    with pytest.raises(OutputError, match=f"ribs: holds {NAME}; expected a folder for phantoms alone"):
        mt.datasets.fetch("phantoms", table.parent)
