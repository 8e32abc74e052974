"""``med-transfer evaluate``: subgroups, scans seen before, and how far the cohort is from development."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from command_line import TINY, Command, FinishedRun, Outcome, locked, read_rows, settings, write_rows
from report_samples import without_tooltips

from med_transfer.bundle import read_record
from med_transfer.cohorts import Cohort
from med_transfer.errors import UsageError
from med_transfer.evaluation.evaluation_record import EvaluationRecord
from med_transfer.phantoms import write_nifti

STATED = ("--prevalence", "part-solid=0.05", "--interval", "jeffreys")


@pytest.fixture(scope="module")
def judged(command: Command, finished: FinishedRun, unseen_csv, tmp_path_factory) -> tuple[Outcome, dict, str]:
    """An external evaluation: what was said, metrics.json, report.html."""
    out = tmp_path_factory.mktemp("external")
    outcome = command("evaluate", finished.bundle, unseen_csv, "-o", out, "--subgroups", "sex, kernel", *STATED)
    return outcome, json.loads((out / "metrics.json").read_text()), without_tooltips((out / "report.html").read_text())


def test_subgroups_are_those_that_were_asked_for(command: Command, finished: FinishedRun, judged, unseen_csv, tmp_path):
    outcome, metrics, _ = judged
    assert outcome.code == 0, outcome.err
    assert list(metrics["subgroups"]) == list(metrics["subgroup_tests"]) == ["sex", "kernel"]
    assert sum(group["n"] for group in metrics["subgroups"]["sex"].values()) == 6
    assert metrics["subgroup_tests"]["sex"]["reason"] == "fewer than two subgroups of at least 10 patients"
    refused = command("evaluate", finished.bundle, unseen_csv, "-o", tmp_path / "out", "--subgroups", "sexx")
    assert (refused.code, "subgroup column 'sexx' is not in the table" in refused.err) == (2, True)
    assert "Did you mean sex?" in refused.err


def test_folders_whose_names_are_not_utf8_are_escaped_in_the_report(command, finished, unseen_csv, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    rows = [row | {"scan": str(unseen_csv.parent / row["scan"])} for row in read_rows(unseen_csv)]
    table = write_rows(folder / "unseen.csv", rows)
    outcome = command("evaluate", finished.bundle, table, "-o", folder / os.fsdecode(b"ev\xe9"), "--gallery", 0)
    assert outcome.code == 0, outcome.err
    report = (folder / os.fsdecode(b"ev\xe9/report.html")).read_text()
    assert r"caf\udce9: external evaluation" in report
    assert r"ev\udce9" in report
    assert command("report", folder / os.fsdecode(b"ev\xe9")).code == 0


def test_predictions_that_abstain_are_counted_and_the_rest_is_measured(
    command, finished: FinishedRun, unseen_csv, tmp_path
):
    assert command("evaluate", finished.bundle, unseen_csv, "-o", tmp_path / "out", "--gallery", 0).code == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())["abstained"]
    rows = read_rows(tmp_path / "out/predictions.csv")
    truth = {row["scan"]: row["label"] for row in read_rows(unseen_csv)}
    answered = [row for row in rows if row["abstained"] == "false"]
    assert (metrics["n"], metrics["above"]) == (len(rows) - len(answered), 0.95)
    assert metrics["reasons"] == Counter(code for row in rows for code in row["abstained_because"].split(";") if code)
    shares = [
        np.mean([row["predicted"] == name for row in answered if truth[row["scan"]] == name])
        for name in sorted({truth[row["scan"]] for row in answered})
    ]
    expected = float(np.mean(shares)) if answered else None
    assert metrics["balanced_accuracy"]["value"] == pytest.approx(expected)


def test_the_figures_of_one_cohort_are_not_replaced_by_those_of_another(
    command, finished: FinishedRun, unseen_csv, cohort_csv, tmp_path
):
    out, record, cohort = tmp_path / "out", read_record(finished.bundle), Cohort.read(unseen_csv)
    EvaluationRecord.of(record, cohort).claim(out)
    EvaluationRecord.of(record, cohort).claim(out)  # once more, with labels corrected or other subgroups
    said = (out / "evaluation.json").read_text()
    assert unseen_csv.parent.name not in said  # a folder's name may be a patient's
    refused = command("evaluate", finished.bundle, cohort_csv, "-o", out, "--allow-overlap")
    assert refused.code == 2
    assert "the folder holds an evaluation of another cohort; expected a new folder" in refused.err, refused.err
    newer = record.model_copy(update={"lock_hash": "0" * 64})
    with pytest.raises(UsageError, match="holds an evaluation of another bundle"):
        EvaluationRecord.of(newer, cohort).claim(out)
    with pytest.raises(UsageError, match="of another bundle and another cohort"):
        EvaluationRecord.of(newer, Cohort.read(cohort_csv)).claim(out)
    assert (out / "evaluation.json").read_text() == said


def test_a_cohort_made_in_python_is_known_by_its_scans(finished: FinishedRun, unseen_csv, cohort_csv, tmp_path):
    """Two of them overwrote each other's results, as neither has a table's path."""
    record = read_record(finished.bundle)
    first, second = (replace(Cohort.read(table), path=None) for table in (unseen_csv, cohort_csv))
    EvaluationRecord.of(record, first).claim(tmp_path)
    corrected = [replace(case, label=first.cases[0].label) for case in reversed(first.cases)]
    EvaluationRecord.of(record, replace(first, cases=tuple(corrected))).claim(tmp_path)
    said = (tmp_path / "evaluation.json").read_text()
    with pytest.raises(UsageError, match="holds an evaluation of another cohort"):
        EvaluationRecord.of(record, second).claim(tmp_path)
    with pytest.raises(UsageError, match="holds an evaluation of another cohort"):
        EvaluationRecord.of(record, Cohort.read(unseen_csv)).claim(tmp_path)
    assert (tmp_path / "evaluation.json").read_text() == said


def test_rates_are_stated_as_was_asked_for(command: Command, finished: FinishedRun, judged, unseen_csv, tmp_path):
    _, metrics, report = judged
    assert metrics["evaluation"] == {"interval": "jeffreys", "prevalence": {"part-solid": 0.05}, "interval_width": 0.1}
    assert metrics["classes"]["part-solid"]["at_prevalence"]["prevalence"] == 0.05
    assert metrics["classes"]["part-solid"]["sensitivity"]["method"].startswith("Jeffreys interval")
    assert "At another prevalence</h3>" in report
    words = ("evaluate", finished.bundle, unseen_csv, "-o", tmp_path / "out", "--prevalence")
    for stated, said in (
        ("part=0.1", "prevalence: part is no class; expected one of"),
        ("solid=10", "--prevalence: 'solid=10'; expected CLASS=SHARE with a share between 0 and 1"),
    ):
        refused = command(*words, stated)
        assert (refused.code, said in refused.err) == (2, True), refused.err
    assert not (tmp_path / "out").exists()


def test_a_prevalence_can_be_stated_for_a_run_that_has_been_trained(
    command: Command, finished: FinishedRun, cohort_csv, tmp_path
):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    words = ("finetune", cohort_csv, "-o", folder, *settings(*TINY), "--prevalence")
    refused = command(*words, "part=0.1")
    assert (refused.code, "prevalence: part is no class" in refused.err) == (2, True)
    before = json.loads((folder / "metrics.json").read_text())
    outcome = command(*words, "solid=0.2")
    assert outcome.code == 0, outcome.err
    after = json.loads((folder / "metrics.json").read_text())
    assert after["classes"]["solid"]["at_prevalence"]["prevalence"] == 0.2
    assert after["classes"]["solid"]["sensitivity"] == before["classes"]["solid"]["sensitivity"]
    assert after["macro_auc"] == before["macro_auc"]


def test_a_label_that_the_bundle_does_not_know_is_refused(
    command: Command, finished: FinishedRun, unseen_csv, tmp_path
):
    rows = [row | {"scan": str(unseen_csv.parent / row["scan"])} for row in read_rows(unseen_csv)]
    rows[1]["label"] = "granuloma"
    refused = command("evaluate", finished.bundle, write_rows(tmp_path / "c.csv", rows), "-o", tmp_path / "out")
    assert refused.code == 2
    assert "class 'granuloma' is not in both the table and the bundle; expected the bundle's" in refused.err
    assert "row 3" in refused.err


def test_an_external_cohort_is_held_against_the_one_of_the_bundle(judged, finished: FinishedRun):
    _, metrics, report = judged
    development, domain = read_record(finished.bundle).development, metrics["domain"]
    assert development is not None
    assert development.n_scans == 12
    assert {name: shift["training"] for name, shift in domain["prevalence"].items()} == development.prevalence
    assert domain["texts"]["file_format"]["here"].keys() <= {"dicom", "nifti"}
    assert domain["numbers"]["n_slices"]["outside"]["value"] == 0
    assert (domain["abstain_above"], metrics["shortcuts"]) == (0.95, None)
    assert 0 <= domain["abstained"]["value"] <= 1
    assert metrics["overlap"]["seen_scans"] == 0
    assert "the training cohort" in report


def test_the_runs_own_test_patients_are_not_called_external(
    command, finished: FinishedRun, cohort_csv, judged, tmp_path
):
    """Their figures were to be reported alongside those of the run's own test scans."""
    run, rows = shutil.copytree(finished.folder, tmp_path / "run"), read_rows(cohort_csv)
    cases = locked(run, [row["scan"] for row in rows])
    own = [row | {"scan": str(cohort_csv.parent / row["scan"])} for row in rows if cases[row["scan"]].role == "test"]
    outcome = command("evaluate", run, write_rows(tmp_path / "own.csv", own), "-o", tmp_path / "out", "--gallery", 0)
    assert outcome.code == 0, outcome.err
    report = without_tooltips((tmp_path / "out/report.html").read_text())
    for page, external in ((report, False), (judged[2], True)):
        assert (": external evaluation" in page) == external
        assert ("and describe how the two cohorts differ" in page) == external
    assert "own test set was read 2 times" in report
    assert "Evaluate on patients from another hospital or a later period" in report


def test_a_run_measures_shortcuts_and_its_own_test_scans_are_no_other_cohort(finished: FinishedRun):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["baselines"]["acquisition"]["macro_auc"]["value"] is not None
    assert metrics["shortcuts"]["n_scans"] == 12
    assert {"kernel", "slice_thickness_mm"} <= set(metrics["shortcuts"]["facts"])
    assert (metrics["overlap"], metrics["domain"]) == (None, None)


def test_what_was_seen_in_training_is_judged_only_when_allowed_and_is_said_first(
    command: Command, finished: FinishedRun, cohort_csv, tmp_path
):
    words = ("evaluate", finished.bundle, cohort_csv, "-o", tmp_path / "out", "--gallery", 0)
    refused = command(*words)
    assert (refused.code, "pass --allow-overlap" in refused.err) == (2, True)
    assert not (tmp_path / "out").exists()  # by the table's patients, before any scan is read
    allowed = command(*words, "--allow-overlap")
    assert allowed.code == 0, allowed.err
    said = "12 of 18 scans (12 of 18 patients) were seen in training: these figures are not of new patients"
    assert f"warning: {said}" in allowed.out
    assert "not used for training" not in allowed.out
    overlap = json.loads((tmp_path / "out" / "metrics.json").read_text())["overlap"]
    assert overlap == {"n_scans": 18, "n_patients": 18, "seen_scans": 12, "seen_patients": 12, "seen_by_source": None}
    report = without_tooltips((tmp_path / "out" / "report.html").read_text())
    assert report.index("12 of 18 scans were seen in training") < report.index("Who was evaluated</h3>")
    assert "no patient of this cohort was used in training" not in report


def test_what_the_source_has_seen_is_named_as_such(command: Command, transferred: FinishedRun, cohort_csv, tmp_path):
    table = write_rows(
        tmp_path / "cohort.csv",
        [row | {"scan": str(cohort_csv.parent / row["scan"])} for row in read_rows(cohort_csv)],
    )
    refused = command("evaluate", transferred.bundle, table, "-o", tmp_path / "out")
    assert refused.code == 2
    assert "the bundle was trained on 12 of these scans or their patients (12 of them by its source" in refused.err
    write_rows(table, [row | {"patient": row["patient"].swapcase()} for row in read_rows(table)])
    renamed = command("evaluate", transferred.bundle, table, "-o", tmp_path / "out")
    assert (
        "the names of 12 patients differ from those of training patients only in capital letters, spaces" in renamed.err
    )
    assert (renamed.code, "the bundle was trained on 12 of these scans" in renamed.err) == (2, True)  # by their images


@pytest.fixture(scope="module")
def tied_csv(finished: FinishedRun, tmp_path_factory):
    """Ten patients of each class; the number of slices goes with the class, and nothing else does."""
    folder, chance, rows = tmp_path_factory.mktemp("tied"), np.random.default_rng(0), []
    for number in range(30):
        kind = number % 3
        voxels = chance.normal(0, 200, (20 + 3 * kind, 32, 32)).astype(np.int16)
        scan = write_nifti(folder / f"case-{number:02d}.nii.gz", voxels, np.eye(4))
        rows.append({"scan": scan.name, "patient": f"n{number}", "label": read_record(finished.bundle).classes[kind]})
    return write_rows(folder / "cohort.csv", rows)


def test_an_external_cohort_whose_acquisition_tells_the_label_is_warned_of(
    command: Command, finished: FinishedRun, tied_csv, tmp_path
):
    outcome = command("evaluate", finished.bundle, tied_csv, "-o", tmp_path, "--gallery", 0)
    assert outcome.code == 0, outcome.err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["baselines"]) == ["prevalence", "handcrafted", "acquisition"]
    assert metrics["baselines"]["acquisition"]["macro_auc"]["value"] == 1
    assert next(iter(metrics["shortcuts"]["facts"])) == "n_slices"
    report = without_tooltips((tmp_path / "report.html").read_text())
    summary = report[: report.index("Who was evaluated</h3>")]
    assert "How the scans were acquired gives the label away" in summary
    assert "the handcrafted baseline" in summary
    assert (
        summary.count(
            "It was fitted within this cohort: each patient was predicted by a model fitted to the other patients."
        )
        == 2
    )
