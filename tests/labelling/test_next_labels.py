"""``labels next`` on phantoms: which scans are chosen, which are listed separately, and what if none is left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import locked, read_rows, write_rows
from planted import leaked
from pydicom import dcmread
from scipy.stats import entropy
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.atomic.sole_writer import sole_writer_of
from med_transfer.errors import FolderInUse, UsageError
from med_transfer.inference import load_bundle
from med_transfer.labelling.next_labels import next_labels
from med_transfer.phantoms import write_dicom_series
from med_transfer.scans.isolation import isolated

COLUMNS = ["rank", "scan", "patient", "series_uid", "reason", "entropy", "distance", "novelty"]
USUAL = ("--out-of-distribution-above", 1)  # a bundle of two epochs finds many scans out-of-distribution


def absolute(table):
    rows = read_rows(table)
    for row in rows:
        row["scan"] = str(table.parent / row["scan"])
        del row["label"]
    return rows


def test_next_ranks_scans_one_a_patient_and_says_why(command, finished, unseen_csv, tmp_path):
    outcome = command("labels", "next", finished.bundle, unseen_csv, "-n", 4, "-o", tmp_path / "next.csv", *USUAL)
    assert outcome.code == 0, outcome.err
    rows = read_rows(tmp_path / "next.csv")
    assert list(rows[0]) == COLUMNS
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    listed = {row["scan"]: row["patient"] for row in read_rows(unseen_csv)}
    assert all(listed[row["scan"]] == row["patient"] for row in rows)
    assert len({row["patient"] for row in rows}) == 4
    assert " or " in rows[0]["reason"]
    assert "unlike those ranked before it" in rows[1]["reason"]
    assert "4 scans to label, most useful first" in outcome.out

    again = command("labels", "next", finished.bundle, unseen_csv, "-n", 4, "-o", tmp_path / "b.csv", *USUAL, "--json")
    assert json.loads(again.out)["n_chosen"] == 4
    assert read_rows(tmp_path / "b.csv") == rows


def test_entropy_and_novelty_are_those_of_predict(command, finished, unseen_csv, tmp_path):
    command("labels", "next", finished.bundle, unseen_csv, "-n", 6, "-o", tmp_path / "next.csv", *USUAL)
    command("predict", finished.bundle, unseen_csv, "-o", tmp_path)
    predicted = {row["scan"]: row for row in read_rows(tmp_path / "predictions.csv")}
    for row in read_rows(tmp_path / "next.csv"):
        found = predicted[row["scan"]]
        shares = [float(value) for name, value in found.items() if name.startswith("p_")]
        assert float(row["entropy"]) == pytest.approx(entropy(shares, base=3), abs=1e-3)
        assert float(row["novelty"]) == pytest.approx(float(found["novelty"]), abs=0.006)


def test_a_copy_under_another_name_is_not_chosen_twice(command, finished, unseen_csv, tmp_path):
    rows = absolute(unseen_csv)
    copies = []
    for number, row in enumerate(rows):
        scan = Path(row["scan"])
        copy = tmp_path / ("copy-" + scan.name)
        (shutil.copytree if scan.is_dir() else shutil.copy)(scan, copy)
        copies.append(row | {"scan": str(copy), "patient": f"copy-{number}"})
    table = write_rows(tmp_path / "t.csv", [*rows, *copies])
    outcome = command("labels", "next", finished.bundle, table, "-n", 12, "-o", tmp_path / "next.csv", *USUAL)
    assert outcome.code == 0, outcome.err
    chosen = [row["patient"] for row in read_rows(tmp_path / "next.csv")]
    original = {f"copy-{number}": row["patient"] for number, row in enumerate(rows)}
    assert len(chosen) == len({original.get(patient, patient) for patient in chosen}) == 6
    assert "fewer than requested" in outcome.out


def test_out_of_distribution_scans_are_listed_apart(command, finished, unseen_csv, tmp_path):
    command("predict", finished.bundle, unseen_csv, "-o", tmp_path)
    novelty = {row["scan"]: float(row["novelty"]) for row in read_rows(tmp_path / "predictions.csv")}
    limit = sorted(novelty.values())[2]
    outcome = command(
        "labels", "next", finished.bundle, unseen_csv, "-o", tmp_path / "next.csv", "--out-of-distribution-above", limit
    )
    assert outcome.code == 0, outcome.err
    listed = read_rows(tmp_path / "next-out-of-distribution.csv")
    assert {row["scan"] for row in listed} == {scan for scan, value in novelty.items() if value > limit}
    assert {row["scan"] for row in read_rows(tmp_path / "next.csv")} <= {s for s, v in novelty.items() if v <= limit}
    assert all("perhaps out of scope" in row["reason"] for row in listed)
    assert f"{len(listed)} scans are out-of-distribution" in outcome.out


def test_a_folder_needs_no_table_and_gives_no_identifier_away(command, finished, unseen_csv, tmp_path):
    """Two series of one PatientID count as one patient, who is named nowhere."""
    shutil.copytree(unseen_csv.parent / "scans", tmp_path / "scans")
    series = [path for path in sorted((tmp_path / "scans").iterdir()) if path.is_dir()]
    assert len(series) >= 2
    for number, folder in enumerate(series):
        for path in folder.iterdir():
            header = dcmread(path)
            header.PatientID = f"SECRET-{max(number, 1)}"
            header.save_as(path)
    words = ("labels", "next", finished.bundle, tmp_path / "scans", "-o", tmp_path / "next.csv", *USUAL)
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    rows = read_rows(tmp_path / "next.csv")
    assert len({row["patient"] for row in rows}) == len(rows) == 5
    assert len({row["scan"] for row in rows} & {folder.name for folder in series[:2]}) == 1
    assert all(row["patient"].startswith("unlabelled-") for row in rows)
    written = "".join(path.read_text() for path in tmp_path.glob("*.csv")) + outcome.out + outcome.err
    assert leaked(("SECRET", "PHANTOM", "20200101"), written) == []


def test_a_second_call_reads_no_scan_and_a_damaged_one_is_counted(command, finished, unseen_csv, tmp_path, monkeypatch):
    shutil.copytree(unseen_csv.parent / "scans", tmp_path / "scans")
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    rows = [{"scan": path.name, "patient": path.name} for path in sorted((tmp_path / "scans").iterdir())]
    words = ("labels", "next", finished.bundle, write_rows(tmp_path / "scans/t.csv", rows), *USUAL)
    first = command(*words, "-o", tmp_path / "next.csv")
    assert first.code == 1
    assert f"1 scan could not be used: {tmp_path / 'next-left-out.csv'}" in first.out
    left_out = read_rows(tmp_path / "next-left-out.csv")
    assert [(row["scan"], "not a gzip file" in row["reason"]) for row in left_out] == [("broken.nii.gz", True)]
    before = (tmp_path / "next.csv").read_bytes()

    def only_the_broken(work, path, *more, **named):
        assert "broken" in str(path)
        return isolated(work, path, *more, **named)

    monkeypatch.setattr("med_transfer.cohorts.preparation.isolated", only_the_broken)
    assert command(*words, "-o", tmp_path / "next.csv").code == 1
    assert (tmp_path / "next.csv").read_bytes() == before


def test_a_table_that_another_run_makes_is_left_to_it(tmp_path):
    with sole_writer_of(tmp_path / "next.csv"), pytest.raises(FolderInUse, match="next.csv: another run is active"):
        next_labels(tiny_bundle(tmp_path / "bundle"), write_scan(tmp_path / "a.nii"), tmp_path / "next.csv")
    assert not list(tmp_path.glob("next*"))


@pytest.mark.parametrize("what", ["out-of-distribution", "left-out"])
def test_a_table_beside_it_that_a_user_has_labelled_or_gives_is_not_written_over(tmp_path, what):
    bundle, scans = tiny_bundle(tmp_path / "bundle"), tmp_path / "scans"
    write_scan(scans / "good.nii")
    beside = write_rows(tmp_path / f"next-{what}.csv", [{"scan": "scans/good.nii", "patient": "1", "label": "benign"}])
    with pytest.raises(UsageError, match=f"next-{what}.csv: a table is there, whose columns .*label.* would be lost"):
        next_labels(bundle, scans, tmp_path / "next.csv")
    write_rows(beside, [{"scan": "scans/good.nii", "series_uid": "", "reason": ""}])
    with pytest.raises(UsageError, match=f"next-{what}.csv: the file that is read is the one to write"):
        next_labels(bundle, beside, tmp_path / "next.csv")
    assert not (tmp_path / "next.csv").exists()


def test_a_scan_that_the_bundle_has_no_answer_for_is_listed_and_not_lost(tmp_path, monkeypatch):
    bundle, scans = load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu"), tmp_path / "scans"
    for number in range(2):
        write_scan(scans / f"{number}.nii", number)
    answer, calls = type(bundle.network).predict_features, []

    def once_nan(network, features, images):
        probabilities, novelty = answer(network, features, images)
        calls.append(images)
        return probabilities, novelty * (np.nan if len(calls) == 1 else 1)

    monkeypatch.setattr(type(bundle.network), "predict_features", once_nan)
    found = next_labels(bundle, scans, tmp_path / "next.csv", out_of_distribution_above=1)
    assert [(one.scan, "output is not finite" in one.reason) for one in found.failed] == [("0.nii", True)]
    assert [row["scan"] for row in read_rows(tmp_path / "next.csv")] == ["1.nii"]


def test_each_series_of_a_folder_that_cannot_be_used_is_listed(tmp_path):
    """They lie in one folder, and so are called alike."""
    bundle, scans = tiny_bundle(tmp_path / "bundle"), tmp_path / "scans"
    write_scan(scans / "good.nii")
    for seed in range(2):
        voxels = np.random.default_rng(seed).integers(-1000, 1000, (12, 16, 16), dtype=np.int16)
        for path in write_dicom_series(scans, voxels, np.eye(4), seed=seed)[3:8]:
            path.unlink()
    found = next_labels(bundle, scans, tmp_path / "next.csv", out_of_distribution_above=1.0)
    left_out = read_rows(tmp_path / "next-left-out.csv")
    assert len(found.failed) == len(left_out) == len({row["series_uid"] for row in left_out}) == 2
    assert len({row["scan"] for row in left_out}) == 1


def test_a_scan_of_another_modality_is_left_out_as_predict_rejects_it(tmp_path):
    predictor, scans = load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu"), tmp_path / "scans"
    envelope = predictor.record.input_envelope.model_copy(update={"texts": {"modality": ("MR",)}})
    predictor.record = predictor.record.model_copy(update={"input_envelope": envelope})
    write_scan(scans / "good.nii")
    voxels = np.random.default_rng(0).integers(-1000, 1000, (12, 16, 16), dtype=np.int16)
    write_dicom_series(scans / "ct", voxels, np.eye(4))
    assert predictor.predict_folder(scans, tmp_path / "out").n_rejected == 1
    found = next_labels(predictor, scans, tmp_path / "next.csv", out_of_distribution_above=1.0)
    assert [(one.scan, one.status, one.found) for one in found.failed] == [("ct", "rejected", "modality CT")]


# No scan is left


def test_scans_that_taught_the_bundle_or_test_it_are_left_out(command, finished, cohort_csv, unseen_csv, tmp_path):
    """A folder of all scans holds labelled ones, too. Those of the run's test patients were ranked for labelling."""
    cases = locked(finished.folder, [row["scan"] for row in read_rows(cohort_csv)])
    tests = {str(cohort_csv.parent / scan) for scan, case in cases.items() if case.role == "test"}
    own, unseen = absolute(cohort_csv), absolute(unseen_csv)
    renamed = [row | {"patient": f"other {number}"} for number, row in enumerate(own)]  # known by their voxels
    for number, known in enumerate((own, renamed)):
        table, out = write_rows(tmp_path / f"t{number}.csv", [*known, *unseen]), tmp_path / f"next{number}.csv"
        outcome = command("labels", "next", finished.bundle, table, "-o", out, *USUAL, "--json")
        found = json.loads(outcome.out)
        assert (outcome.code, found["n_trained_on"], found["n_held_out"]) == (0, 12, len(tests))
        assert {row["scan"] for row in read_rows(out)} == {row["scan"] for row in unseen}
    told = command("labels", "next", finished.bundle, table, "-o", out, *USUAL).out
    assert f"{len(tests)} scans left out: they, or their patients, are the test set of the bundle's run" in told

    nobody = command("labels", "next", finished.bundle, write_rows(tmp_path / "t.csv", own), "-o", tmp_path / "n.csv")
    assert nobody.code == 3
    assert (
        f"no scan to choose from: 12 are of patients on whom this bundle was trained, {len(tests)} are of the test "
        "patients of its run; expected scans without labels"
    ) in nobody.err
    assert not (tmp_path / "n.csv").exists()


def test_a_bundle_that_does_not_say_what_it_was_tested_on_leaves_out_what_it_learned_from(
    finished, cohort_csv, tmp_path
):
    predictor = load_bundle(finished.bundle, "cpu")
    predictor.record = predictor.record.model_copy(update={"held_out": None})
    found = next_labels(predictor, cohort_csv, tmp_path / "next.csv", out_of_distribution_above=1.0)
    assert (found.n_trained_on, found.n_held_out) == (12, 0)
    assert found.n_chosen


def test_scans_that_do_not_fit_the_bundle(command, transferred, unseen_csv, tmp_path):
    rows = [{"scan": row["scan"]} for row in absolute(unseen_csv)]
    table = write_rows(tmp_path / "t.csv", rows)
    outcome = command("labels", "next", transferred.bundle, table, "-o", tmp_path / "next.csv")
    assert outcome.code == 3
    assert "no scan to choose from: 6 cannot be used" in outcome.err
    assert "no region of interest; expected roi_x_mm" in outcome.err
    assert sorted(tmp_path.glob("*.csv")) == [tmp_path / "next-left-out.csv", table]
    assert len(read_rows(tmp_path / "next-left-out.csv")) == 6


def test_when_all_are_out_of_distribution_they_are_still_listed(command, finished, unseen_csv, tmp_path):
    command("predict", finished.bundle, unseen_csv, "-o", tmp_path)
    novelty = {row["scan"]: float(row["novelty"]) for row in read_rows(tmp_path / "predictions.csv")}
    limit = sorted(novelty.values())[2]
    rows = [row for row in absolute(unseen_csv) if novelty[os.path.relpath(row["scan"], unseen_csv.parent)] > limit]
    assert rows
    table = write_rows(tmp_path / "t.csv", rows)
    outcome = command(
        "labels", "next", finished.bundle, table, "-o", tmp_path / "n.csv", "--out-of-distribution-above", limit
    )
    assert outcome.code == 3
    assert f"{len(rows)} are out-of-distribution for it (see n-out-of-distribution.csv)" in outcome.err
    assert len(read_rows(tmp_path / "n-out-of-distribution.csv")) == len(rows)
    assert not (tmp_path / "n.csv").exists()


def test_the_option_under_its_old_name_is_taken_with_a_warning(command, finished, unseen_csv, tmp_path):
    words = ("labels", "next", finished.bundle, unseen_csv, "-n", 4, "-o")
    new = command(*words, tmp_path / "new.csv", *USUAL)
    old = command(*words, tmp_path / "old.csv", "--strange-above", 1)
    assert (old.code, new.code) == (0, 0)
    assert read_rows(tmp_path / "old.csv") == read_rows(tmp_path / "new.csv")
    assert "--strange-above is now --out-of-distribution-above" in old.err
    assert "is now" not in new.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-n", 0), "0 scans to choose; expected at least 1"),
        (("--out-of-distribution-above", 1.5), "novelty limit 1.5; expected from 0 to 1"),
    ],
)
def test_wrong_words_are_refused(command, finished, unseen_csv, tmp_path, more, message):
    outcome = command("labels", "next", finished.bundle, unseen_csv, "-o", tmp_path / "next.csv", *more)
    assert (outcome.code, message in outcome.err) == (2, True)


def test_a_table_with_labels_and_the_one_that_is_read_are_not_written_over(command, finished, unseen_csv, tmp_path):
    labelled, folder = tmp_path / "next.csv", tmp_path / "folder.csv"
    labelled.write_text("rank,scan,label\n1,a,high\n")
    folder.mkdir()
    for out, message in (
        (labelled, "whose columns label would be lost; expected a new name for the table to write"),
        (unseen_csv, "the file that is read is the one to write"),
        (folder, "a folder has this name"),
    ):
        before = out.read_bytes() if out.is_file() else None
        outcome = command("labels", "next", finished.bundle, unseen_csv, "-o", out)
        assert (outcome.code, message in outcome.err) == (2, True), outcome.err
        assert before is None or out.read_bytes() == before


def test_no_bundle_and_no_scan(command, finished, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "not a bundle" in command("labels", "next", tmp_path, tmp_path, "-o", tmp_path / "n.csv").err
    outcome = command("labels", "next", finished.bundle, tmp_path / "empty", "-o", tmp_path / "n.csv")
    assert (outcome.code, "no scan among 0 files" in outcome.err) == (2, True)
