"""A row is of what its scan was: what changes while a batch runs is predicted again by the next run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import read_rows
from pydicom import dcmread
from pydicom.uid import generate_uid
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.inference import BatchSettings, folder, load_bundle
from med_transfer.inference.predictor import Predictor
from med_transfer.phantoms.dicom_series import write_dicom_series
from med_transfer.predictions.record import Prediction
from med_transfer.scans import find_series


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load_bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")), "cpu")


def write_series(folder: Path, seed: int, values: int = 0) -> None:
    """A series whose names and UIDs depend on the seed, and whose voxels depend on both numbers."""
    voxels = np.random.default_rng([seed, values]).normal(0, 300, (24, 40, 40)).astype(np.int16)
    write_dicom_series(folder, voxels, np.diag([1.0, 1.0, 2.0, 1.0]), seed=seed)


def written(out: Path) -> list[dict[str, str]]:
    return [row | {"seconds": ""} for row in read_rows(out / "predictions.csv")]


def require_same_as_undisturbed(predictor: Predictor, scans: Path, out: Path) -> None:
    """The same command again ends with the table of a run over what is there now."""
    predictor.predict_folder(scans, out)
    predictor.predict_folder(scans, out.with_name("undisturbed"))
    assert written(out) == written(out.with_name("undisturbed"))


def changed_after_the_search(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    search = folder.scans_to_predict

    def changed(*arguments: object, **options: object):
        found = search(*arguments, **options)
        monkeypatch.setattr(folder, "scans_to_predict", search)
        change()
        return found

    monkeypatch.setattr(folder, "scans_to_predict", changed)


def test_a_series_that_changes_between_search_and_reading_is_predicted_by_the_next_run(
    predictor, tmp_path, monkeypatch
):
    series, out = tmp_path / "scans/1", tmp_path / "out"
    write_series(series, 1)

    def replace() -> None:
        for file in series.iterdir():
            image = dcmread(file)
            image.SOPInstanceUID = generate_uid()
            image.save_as(file)

    changed_after_the_search(monkeypatch, replace)
    predictor.predict_folder(series.parent, out)
    assert "has changed since the folder was looked through" in written(out)[0]["reason"]
    require_same_as_undisturbed(predictor, series.parent, out)


def test_an_archive_that_is_replaced_after_it_was_unpacked_is_predicted_by_the_next_run(
    predictor, tmp_path, monkeypatch
):
    for values in (1, 2):
        write_series(tmp_path / f"of-{values}", 1, values)
        shutil.make_archive(str(tmp_path / f"of-{values}"), "zip", tmp_path / f"of-{values}")
    scan = tmp_path / "scans/export.zip"
    scan.parent.mkdir()
    shutil.copy(tmp_path / "of-1.zip", scan)
    changed_after_the_search(monkeypatch, lambda: shutil.copy(tmp_path / "of-2.zip", scan))
    predictor.predict_folder(scan.parent, tmp_path / "out")
    require_same_as_undisturbed(predictor, scan.parent, tmp_path / "out")


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_a_copy_has_no_prediction_of_what_its_original_became_before_it_was_read(
    predictor, tmp_path, monkeypatch, kind
):
    scans, read = tmp_path / "scans", folder._read
    if kind == "nifti":
        write_scan(scans / "a.nii.gz", 1)
        shutil.copy(scans / "a.nii.gz", scans / "b.nii.gz")
    else:
        write_series(scans / "a", 1)
        shutil.copytree(scans / "a", scans / "b")

    def change() -> None:
        if kind == "nifti":
            write_scan(scans / "a.nii.gz", 5)
            return
        for file in (scans / "a").iterdir():  # the same header, which reading accepts
            content = file.read_bytes()
            file.write_bytes(content[:-1000] + bytes(1000))

    def changed(job, *arguments, **options):
        if job[0].case.scan.startswith("a") and not (tmp_path / "changed").exists():
            (tmp_path / "changed").touch()
            change()
        return read(job, *arguments, **options)

    monkeypatch.setattr(folder, "_read", changed)
    predictor.predict_folder(scans, tmp_path / "out")
    original, copy = written(tmp_path / "out")
    assert original["p_malignant"] != copy["p_malignant"]
    require_same_as_undisturbed(predictor, scans, tmp_path / "out")


def test_the_same_folder_under_another_name_is_not_predicted_again(predictor, tmp_path, monkeypatch):
    write_scan(tmp_path / "scans/a.nii.gz")
    monkeypatch.chdir(tmp_path)
    observed: list[Prediction] = []
    for scans in ("scans", "./scans/", tmp_path / "scans"):
        predictor.predict_folder(scans, tmp_path / "out", settings=BatchSettings(observe=observed.append))
    assert len(observed) == 1


def test_series_of_one_archive_that_a_table_names_are_no_copies(predictor, tmp_path):
    for number in (1, 2):
        write_series(tmp_path / f"in/{number}", number)
    shutil.make_archive(str(tmp_path / "export"), "gztar", tmp_path / "in")
    rows = [f"export.tar.gz,{series.series_uid}" for series in find_series(tmp_path / "in")]
    (tmp_path / "t.csv").write_text("\n".join(["scan,series_uid", *rows]))
    predictor.predict_folder(tmp_path / "t.csv", tmp_path / "out")
    predictor.predict_folder(tmp_path / "in", tmp_path / "each")
    answers = [{row["series_uid"]: row["p_malignant"] for row in written(tmp_path / name)} for name in ("out", "each")]
    assert answers[0] == answers[1]
    assert len(set(answers[0].values())) == 2


def test_a_path_that_no_file_can_have_is_a_row_of_its_table(predictor, tmp_path):
    write_scan(tmp_path / "a.nii.gz")
    (tmp_path / "t.csv").write_text(f"scan,mask\na.nii.gz,\n{'x' * 300}.nii.gz,\nb\0.mhd,\na.nii.gz,{'m' * 300}.nii\n")
    outcome = predictor.predict_folder(tmp_path / "t.csv", tmp_path / "out")
    assert (outcome.n_ok, outcome.n_failed) == (1, 3)


def test_a_scan_in_a_closed_folder_is_a_row_of_its_table(predictor, as_nobody):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "closed").mkdir(0o000)
        (folder / "t.csv").write_text("scan\nclosed/a.nii.gz\nclosed/b.mhd\n")
        outcome = predictor.predict_folder(folder / "t.csv", folder / "out")
        assert outcome.n_failed == 2
        assert "no permission to look into the folder" in written(folder / "out")[0]["reason"]


def test_volumes_of_one_archive_have_names_of_their_own_and_resume_whichever_row_was_lost(predictor, tmp_path):
    scans, table = tmp_path / "scans", tmp_path / "out/predictions.csv"
    for name in ("1.nii.gz", "deep/1.nii.gz", "inner/2.nii.gz"):
        write_scan(tmp_path / "in" / name, len(name))
    shutil.make_archive(str(tmp_path / "in/inner"), "zip", tmp_path / "in/inner")
    shutil.rmtree(tmp_path / "in/inner")
    scans.mkdir()
    shutil.make_archive(str(scans / "export"), "zip", tmp_path / "in")
    predictor.predict_folder(scans, tmp_path / "out")
    whole = written(tmp_path / "out")
    assert [row["series_uid"] for row in whole] == ["#1.nii.gz", "#deep/1.nii.gz", "#inner.zip"]
    lines = table.read_bytes().splitlines(keepends=True)
    for lost in range(1, 4):
        table.write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
        predictor.predict_folder(scans, tmp_path / "out")
        assert written(tmp_path / "out") == whole
    (tmp_path / "t.csv").write_text(
        "scan,series_uid\n" + "".join(f"scans/export.zip,{row['series_uid']}\n" for row in whole)
    )
    predictor.predict_folder(tmp_path / "t.csv", tmp_path / "named")
    assert [row["p_malignant"] for row in written(tmp_path / "named")] == [row["p_malignant"] for row in whole]
