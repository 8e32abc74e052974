"""Running into the same output folder again: a row is kept only if the same bundle would make it of the same files."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import read_rows, write_rows
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.errors import FolderInUse, UsageError
from med_transfer.inference import folder as batch
from med_transfer.inference import load_bundle
from med_transfer.phantoms.dicom_series import write_dicom_series


@pytest.fixture
def predictor(tmp_path):
    return load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu")


@pytest.fixture
def scans(tmp_path):
    for number in range(3):
        write_scan(tmp_path / f"scans/{number}.nii.gz", number)
    return tmp_path / "scans"


def answers(out):
    return {row["scan"]: row["p_malignant"] for row in read_rows(out / "predictions.csv")}


def read_now(predictor, scans, out, monkeypatch):
    """Names of the scans that a run predicts, and does not take from the table."""
    predicted, answer = [], type(predictor).answer

    def noted(self, given, *arguments):
        predicted.append(Path(given.path).name)
        return answer(self, given, *arguments)

    monkeypatch.setattr(type(predictor), "answer", noted)
    predictor.predict_folder(scans, out)
    monkeypatch.undo()
    return predicted


def test_rows_of_another_bundle_are_refused_and_kept(predictor, scans, tmp_path):
    predictor.predict_folder(scans, tmp_path / "out")
    before = (tmp_path / "out/predictions.csv").read_bytes()
    other = load_bundle(tiny_bundle(tmp_path / "other", seed=1), "cpu")
    with pytest.raises(UsageError, match=r"predictions\.csv: .*holds predictions by another bundle; .*Choose another"):
        other.predict_folder(scans, tmp_path / "out")
    assert (tmp_path / "out/predictions.csv").read_bytes() == before


def test_rows_of_scans_from_another_place_are_refused(predictor, scans, tmp_path):
    predictor.predict_folder(scans, tmp_path / "out")
    write_scan(tmp_path / "elsewhere/0.nii.gz", 9)  # of the same name
    with pytest.raises(UsageError, match=r"predictions\.csv: .*holds predictions by other scans"):
        predictor.predict_folder(tmp_path / "elsewhere", tmp_path / "out")


def test_rows_of_another_device_are_refused(predictor, scans, tmp_path):
    predictor.predict_folder(scans, tmp_path / "out")
    before = (tmp_path / "out/batch.json").read_bytes()
    predictor.device = torch.device("cuda")
    with pytest.raises(UsageError, match=r"predictions\.csv: .*holds predictions by another device"):
        predictor.predict_folder(scans, tmp_path / "out")
    assert (tmp_path / "out/batch.json").read_bytes() == before  # which says that a processor made all rows


def test_a_table_that_does_not_say_who_made_it_is_refused(predictor, scans, tmp_path):
    predictor.predict_folder(scans, tmp_path / "out")
    (tmp_path / "out/predictions.origins.jsonl").unlink()
    with pytest.raises(UsageError, match=r"predictions\.csv: nothing says which bundle made these rows"):
        predictor.predict_folder(scans, tmp_path / "out")


def test_nothing_changed_nothing_is_predicted_again(predictor, scans, tmp_path, monkeypatch):
    predictor.predict_folder(scans, tmp_path / "out")
    before = (tmp_path / "out/predictions.csv").read_bytes()
    assert read_now(predictor, scans, tmp_path / "out", monkeypatch) == []
    assert (tmp_path / "out/predictions.csv").read_bytes() == before


def test_a_scan_that_changed_is_predicted_again_whatever_its_time_and_size_say(predictor, scans, tmp_path, monkeypatch):
    predictor.predict_folder(scans, tmp_path / "out")
    old, path = answers(tmp_path / "out"), scans / "1.nii.gz"
    new = write_scan(tmp_path / "new.nii.gz", 9)
    stat = path.stat()
    content = new.read_bytes()
    path.write_bytes(content + bytes(max(0, stat.st_size - len(content))))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as rsync -t leaves it
    assert read_now(predictor, scans, tmp_path / "out", monkeypatch) == ["1.nii.gz"]
    assert answers(tmp_path / "out")["1.nii.gz"] != old["1.nii.gz"]
    predictor.predict_folder(scans, tmp_path / "fresh")
    assert answers(tmp_path / "out") == answers(tmp_path / "fresh")


def test_a_scan_that_is_gone_has_no_row_any_more(predictor, scans, tmp_path):
    predictor.predict_folder(scans, tmp_path / "out")
    (scans / "2.nii.gz").unlink()
    predictor.predict_folder(scans, tmp_path / "out")
    assert sorted(answers(tmp_path / "out")) == ["0.nii.gz", "1.nii.gz"]


def two_regions_of_one_scan(folder):
    """Predicted into ``folder / "out"``; who predicted them, and the table."""
    predictor = load_bundle(tiny_bundle(folder / "bundle", region="roi"), "cpu")
    region = {"roi_y_mm": "-19", "roi_z_mm": "20", "roi_size_mm": "20"}
    path = str(write_scan(folder / "a.nii.gz"))
    rows = [{"scan": path, "patient": "1", "roi_x_mm": x} | region for x in ("-19", "-25")]
    table = write_rows(folder / "t.csv", rows)
    predictor.predict_folder(table, folder / "out")
    return predictor, rows, table


def test_a_region_that_changed_is_predicted_again(tmp_path, monkeypatch):
    predictor, rows, table = two_regions_of_one_scan(tmp_path)
    first = sorted(row["p_malignant"] for row in read_rows(tmp_path / "out/predictions.csv"))
    rows[1]["roi_x_mm"] = "-12"
    write_rows(table, rows)
    assert read_now(predictor, table, tmp_path / "out", monkeypatch) == ["a.nii.gz"]
    second = sorted(row["p_malignant"] for row in read_rows(tmp_path / "out/predictions.csv"))
    assert len(set(first) & set(second)) == 1
    assert len(second) == 2


def test_a_row_has_the_name_that_the_table_gives_its_scan_now(predictor, scans, tmp_path):
    table = write_rows(tmp_path / "t.csv", [{"scan": "scans/0.nii.gz"}, {"scan": "scans/1.nii.gz"}])
    predictor.predict_folder(table, tmp_path / "out")
    write_rows(table, [{"scan": "./scans/0.nii.gz"}, {"scan": "scans/1.nii.gz"}])
    predictor.predict_folder(table, tmp_path / "out")
    assert sorted(answers(tmp_path / "out")) == ["./scans/0.nii.gz", "scans/1.nii.gz"]


def test_voxels_beside_a_header_and_slices_in_folders_below_count(predictor, tmp_path, monkeypatch):
    raw = tmp_path / "scans/a.raw"
    raw.parent.mkdir()
    raw.write_bytes(bytes(range(256)) * 128)
    (raw.parent / "a.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 16 32 32\nElementType = MET_SHORT\nElementDataFile = a.raw\n"
    )
    predictor.predict_folder(raw.parent, tmp_path / "out")
    assert read_now(predictor, raw.parent, tmp_path / "out", monkeypatch) == []
    raw.write_bytes(bytes(reversed(range(256))) * 128)
    assert read_now(predictor, raw.parent, tmp_path / "out", monkeypatch) == ["a.mhd"]


def test_a_pipe_named_as_a_header_is_not_waited_for(predictor, tmp_path):
    table = write_rows(tmp_path / "t.csv", [{"scan": "pipe.mhd", "patient": "1"}])
    os.mkfifo(tmp_path / "pipe.mhd")
    predictor.predict_folder(table, tmp_path / "out")
    (row,) = read_rows(tmp_path / "out/predictions.csv")
    assert (row["status"], "not a regular file" in row["reason"]) == ("failed", True)


def test_an_archive_resumes_too(predictor, scans, tmp_path, monkeypatch):
    shutil.make_archive(str(tmp_path / "zips/all"), "zip", scans)
    predictor.predict_folder(tmp_path / "zips", tmp_path / "out")
    assert len(answers(tmp_path / "out")) == 1
    assert read_now(predictor, tmp_path / "zips", tmp_path / "out", monkeypatch) == []


def test_of_two_regions_of_one_scan_the_one_that_a_kill_took_is_predicted(tmp_path, monkeypatch):
    predictor, _, table = two_regions_of_one_scan(tmp_path)
    written = tmp_path / "out/predictions.csv"
    whole = [row | {"seconds": ""} for row in read_rows(written)]
    assert whole[0]["p_malignant"] != whole[1]["p_malignant"]
    assert read_now(predictor, table, tmp_path / "out", monkeypatch) == []
    for lost in (0, 1):
        lines = written.read_bytes().splitlines(keepends=True)
        written.write_bytes(b"".join([lines[0], lines[2 - lost]]))
        assert read_now(predictor, table, tmp_path / "out", monkeypatch) == ["a.nii.gz"]
        assert [row | {"seconds": ""} for row in read_rows(written)] == whole


def test_a_table_names_which_series_of_a_folder_is_meant(predictor, tmp_path, monkeypatch):
    for seed in (1, 2):
        voxels = np.random.default_rng(seed).normal(0, 300, (24, 40, 40)).astype(np.int16)
        for folder in ("both", f"alone/{seed}"):
            write_dicom_series(tmp_path / folder, voxels, np.diag([1.0, 1.0, 2.0, 1.0]), seed=seed)
    predictor.predict_folder(tmp_path / "alone", tmp_path / "expected")
    expected = {row["series_uid"]: row["p_malignant"] for row in read_rows(tmp_path / "expected/predictions.csv")}
    first, second = sorted(expected)
    assert expected[first] != expected[second]

    def named(*uids: str) -> Path:
        return write_rows(tmp_path / "t.csv", [{"scan": "both", "series_uid": uid, "patient": "1"} for uid in uids])

    def found(out: Path) -> list[tuple[str, str]]:
        return [(row["series_uid"], row["p_malignant"]) for row in read_rows(out / "predictions.csv")]

    predictor.predict_folder(named(second, first), tmp_path / "both-of-them")
    assert found(tmp_path / "both-of-them") == [(uid, expected[uid]) for uid in (first, second)]
    predictor.predict_folder(named(second), tmp_path / "one")
    assert read_now(predictor, named(first), tmp_path / "one", monkeypatch) == ["both"]
    assert found(tmp_path / "one") == [(first, expected[first])]
    predictor.predict_folder(named("9.9"), tmp_path / "none")
    assert found(tmp_path / "none") == [("9.9", "")]


def test_an_output_folder_among_the_scans_is_refused(command, scans, tmp_path):
    """Its maps would be taken for scans by the next run."""
    for more in ((), ("--write-sbatch", 2)):
        for out in (scans, scans / "deep/out"):
            outcome = command("predict", tiny_bundle(tmp_path / "bundle"), scans, "-o", out, *more)
            assert (outcome.code, "within the folder of the scans" in outcome.err) == (2, True)
    assert {path.suffix for path in scans.iterdir()} == {".gz"}


def test_all_that_a_run_writes_is_written_before_another_may_begin(command, scans, tmp_path, monkeypatch):
    written = []

    def write_beside(table: Path, *_: object) -> None:
        with pytest.raises(FolderInUse), sole_writer(table.parent):
            pass
        written.append((table.parent / "drift.json").exists())

    monkeypatch.setattr("med_transfer.inference.summary.write_beside", write_beside)
    outcome = command("predict", tiny_bundle(tmp_path / "bundle"), scans, "-o", tmp_path / "out", "--monitor")
    assert (outcome.code, written) == (0, [True])


@pytest.mark.parametrize("series", [False, True], ids=["nifti", "dicom"])
@pytest.mark.parametrize("of_table", [False, True], ids=["folder", "table"])
def test_a_drive_that_is_away_for_a_while_costs_no_scan_for_good(predictor, tmp_path, monkeypatch, series, of_table):
    drive, read = tmp_path / "mounted/drive", batch._read
    if series:
        write_dicom_series(drive / "a", np.zeros((16, 32, 32), np.int16) + np.arange(32, dtype=np.int16), np.eye(4))
    else:
        write_scan(drive / "a.nii.gz")
    (tmp_path / "t.csv").write_text(f"scan\nmounted/drive/{next(drive.iterdir()).name}\n")
    scans = tmp_path / "t.csv" if of_table else tmp_path / "mounted"

    def away(*arguments, **options):
        drive.rename(tmp_path / "away")
        return read(*arguments, **options)

    monkeypatch.setattr(batch, "_read", away)
    assert predictor.predict_folder(scans, tmp_path / "out").n_failed == 1
    monkeypatch.undo()
    (tmp_path / "away").rename(drive)
    assert predictor.predict_folder(scans, tmp_path / "out").n_ok == 1
