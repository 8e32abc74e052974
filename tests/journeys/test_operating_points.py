"""An operating point from the command line to a second look: chosen, locked, read, counted, and unchangeable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, Command, FinishedRun, Outcome, locked, read_rows, run_command, settings, write_rows
from report_samples import without_tooltips
from sklearn.metrics import recall_score

from med_transfer.bundle import RECORD_FILE, read_record
from med_transfer.bundle.decisions_lock import DECISIONS_FILE
from med_transfer.evaluation.test_access_log import ACCESS_LOG_FILE

OWN = (*TINY, "training.epochs=1")
SENSITIVE = ("operating_point.rule=sensitivity", "operating_point.class=part-solid", "operating_point.at_least=0.9")


def finetune(table: Path, folder: Path, *overrides: str) -> Outcome:
    return run_command("finetune", table, "-o", folder, *settings(*OWN, *overrides))


def contents(path: Path) -> dict:
    return json.loads(path.read_text())


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / ACCESS_LOG_FILE).read_text().splitlines()]


@pytest.fixture(scope="module")
def run(cohort_csv, tmp_path_factory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("decided") / "run"
    return FinishedRun(folder, finetune(cohort_csv, folder, *SENSITIVE))


@pytest.fixture
def copied(run: FinishedRun, tmp_path) -> Path:
    """The run folder as it was left, to do something to."""
    return shutil.copytree(run.folder, tmp_path / "run")


@pytest.fixture(scope="module")
def own_test_csv(run: FinishedRun, cohort_csv, tmp_path_factory) -> Path:
    """The rows of the run's own test patients."""
    cases = locked(run.folder, [row["scan"] for row in read_rows(cohort_csv)])
    role = {scan: case.role for scan, case in cases.items()}
    rows = [
        row | {"scan": str(cohort_csv.parent / row["scan"])}
        for row in read_rows(cohort_csv)
        if role[row["scan"]] == "test"
    ]
    return write_rows(tmp_path_factory.mktemp("own") / "cohort.csv", rows)


def test_the_point_is_chosen_locked_and_reported(run: FinishedRun):
    assert run.outcome.code == 0, run.outcome.err
    record, metrics = read_record(run.bundle), contents(run.folder / "metrics.json")
    lock = contents(run.folder / DECISIONS_FILE)
    reached = metrics["chosen_point"]
    assert reached["sensitivity"]["part-solid"]["value"] >= 0.9
    assert (reached["n_scans"], reached["n_networks"]) == (12, 2)
    assert record.operating_point.chosen_on == "validation"
    assert lock["operating_point"] == metrics["operating_point"] == record.operating_point.model_dump()
    assert lock["lock_hash"] == record.lock_hash == metrics["test_set_access"]["lock_hash"]
    assert lock["cohort_hash"] == contents(run.folder / "cohort.lock.json")["cohort_hash"]
    assert lock["weights_sha256"] == record.weights_sha256
    assert {"classes.sensitivity", "macro_auc", "transfer_gain"} <= set(lock["reported"])
    (access, reported) = lines_of(run.folder)
    assert (access["event"], reported["event"]) == ("accessed", "reported")
    assert access["access"]["lock_hash"] == lock["lock_hash"]
    assert (metrics["test_set_access"]["n"], metrics["test_set_access"]["own"]) == (1, True)
    assert "was read" not in run.outcome.out
    page = without_tooltips((run.folder / "report.html").read_text())
    for words in (
        "Operating point</h3>",
        "sensitivity of part-solid at least 90 %",
        lock["lock_hash"],
        "12 validation scans of 12 patients",
        "test set was read once",
        "each once",
    ):
        assert words in page, words


def test_the_calls_are_those_of_the_locked_point(run: FinishedRun):
    point, rows = read_record(run.bundle).operating_point, read_rows(run.folder / "predictions.csv")
    limit = point.thresholds["part-solid"]
    for row in rows:
        probability = float(row["p_part-solid"])
        if abs(probability - limit) > 1e-5:  # the table is rounded
            assert (row["predicted"] == "part-solid") == (probability >= limit)
    truth = {scan: case.label for scan, case in locked(run.folder, [row["scan"] for row in rows]).items()}
    names = ["ground-glass", "part-solid", "solid"]
    found = recall_score(
        [truth[row["scan"]] for row in rows], [row["predicted"] for row in rows], labels=names, average=None
    )
    classes = contents(run.folder / "metrics.json")["classes"]
    np.testing.assert_allclose([classes[name]["sensitivity"]["value"] for name in names], found)


def test_another_operating_point_trains_nothing_and_is_a_second_access(
    command: Command, copied: Path, cohort_csv, own_test_csv, tmp_path
):
    before, weights = read_record(copied / "bundle"), copied / "training/fold-0/best.safetensors"
    written = weights.stat().st_mtime_ns
    outcome = finetune(cohort_csv, copied, "operating_point.rule=youden")
    assert outcome.code == 0, outcome.err
    after, counts = read_record(copied / "bundle"), contents(copied / "metrics.json")["test_set_access"]
    assert weights.stat().st_mtime_ns == written
    assert (after.weights_sha256, set(after.operating_point.thresholds)) == (before.weights_sha256, set(after.classes))
    assert after.lock_hash != before.lock_hash
    assert after.lock_hash == contents(copied / DECISIONS_FILE)["lock_hash"] == counts["lock_hash"]
    assert (counts["n"], counts["n_other_decisions"], counts["n_other_operating_points"]) == (2, 1, 1)
    said = "The run's own test set was read 2 times, 1 of the earlier times with a different operating point."
    assert f"warning: {said}" in outcome.out
    page = without_tooltips((copied / "report.html").read_text())
    assert page.index("test set was read 2 times</b> <span>1 of the earlier times with") < page.index(
        "Who was evaluated</h3>"
    )

    outcome = command("evaluate", copied, own_test_csv, "-o", tmp_path / "out", "--gallery", 0)
    assert outcome.code == 0, outcome.err
    third = contents(tmp_path / "out/metrics.json")
    assert (third["test_set_access"]["n"], third["test_set_access"]["own"]) == (3, True)
    assert third["test_set_access"]["lock_hash"] == after.lock_hash
    assert [line["access"]["by"] for line in lines_of(copied) if line["event"] == "accessed"] == [
        "finetune",
        "finetune",
        "evaluate",
    ]
    assert not (tmp_path / "out" / ACCESS_LOG_FILE).exists()
    classes = contents(copied / "metrics.json")["classes"]
    assert {name: one["counts"] for name, one in third["classes"].items()} == {
        name: one["counts"] for name, one in classes.items()
    }


def test_the_same_again_says_so_and_a_run_killed_after_its_opening_goes_on_with_it(copied: Path, cohort_csv):
    assert finetune(cohort_csv, copied, *SENSITIVE).code == 0
    counts = contents(copied / "metrics.json")["test_set_access"]
    assert (counts["n"], counts["n_other_decisions"]) == (2, 0)
    text = (copied / ACCESS_LOG_FILE).read_text().splitlines(keepends=True)
    (copied / ACCESS_LOG_FILE).write_text("".join(text[:-1]))  # read a second time, and killed before any result
    (copied / "metrics.json").unlink()
    assert finetune(cohort_csv, copied, *SENSITIVE).code == 0
    assert contents(copied / "metrics.json")["test_set_access"]["n"] == 2
    assert len(lines_of(copied)) == 4


def test_nothing_is_read_where_the_opening_cannot_be_recorded(copied: Path, cohort_csv):
    (copied / ACCESS_LOG_FILE).write_text("nonsense\n")
    (copied / "predictions.csv").unlink()
    outcome = finetune(cohort_csv, copied, *SENSITIVE)
    assert (outcome.code, "line 1 is damaged" in outcome.err) == (2, True)
    assert not (copied / "predictions.csv").exists()
    assert (copied / DECISIONS_FILE).exists()


def test_another_cohort_is_counted_by_itself_with_the_prevalence_of_the_development_scans(
    command: Command, copied: Path, unseen_csv, tmp_path
):
    shifted = [row for row in read_rows(unseen_csv) if row["label"] != "solid" or row["patient"].endswith("0")]
    table = write_rows(unseen_csv.parent / "shifted.csv", shifted)
    for number in (1, 2):
        outcome = command("evaluate", copied, table, "-o", tmp_path / f"out-{number}", "--gallery", 0)
        assert outcome.code == 0, outcome.err
        metrics = contents(tmp_path / f"out-{number}" / "metrics.json")
        assert (metrics["test_set_access"]["n"], metrics["test_set_access"]["own"]) == (number, False)
    record = read_record(copied / "bundle")
    assert record.development is not None
    shares = np.array([record.development.prevalence[name] for name in record.classes])
    truth = np.array([[row["label"] == name for name in record.classes] for row in shifted])
    brier = ((shares - truth) ** 2).sum(axis=1).mean() / 2
    assert metrics["baselines"]["prevalence"]["brier"]["value"] == pytest.approx(brier)
    assert not np.allclose(truth.mean(axis=0), shares)


def test_a_bundle_away_from_its_run_counts_in_the_output_folder(
    command: Command, run: FinishedRun, own_test_csv, tmp_path
):
    bundle = shutil.copytree(run.bundle, tmp_path / "bundle")
    assert command("evaluate", bundle, own_test_csv, "-o", tmp_path / "out", "--gallery", 0).code == 0
    counts = contents(tmp_path / "out/metrics.json")["test_set_access"]
    assert (counts["n"], counts["own"], len(lines_of(tmp_path / "out"))) == (1, True, 2)
    assert len(lines_of(run.folder)) == 2


def changed(bundle: Path, **changes) -> None:
    path = bundle / RECORD_FILE
    path.write_text(json.dumps(contents(path) | changes))


LOWER = {"rule": "class_threshold", "thresholds": {"part-solid": 0.01}, "costs": {}, "chosen_on": "validation"}


@pytest.mark.parametrize(
    ("changes", "in_run", "away"),
    [
        (
            {"operating_point": LOWER},
            "not as it was locked before the test: operating_point; expected what",
            "the operating point, or another decision, was changed after it was locked; "
            "expected decisions with SHA-256",
        ),
        (
            {"calibration": {"method": "none"}, "abstain_above_novelty": 0.5},
            "not as it was locked before the test: abstain_above_novelty, calibration",
            "was changed after it was locked",
        ),
        ({"held_out": None}, "before the test: held_out", "was changed after it was locked"),
    ],
)
def test_a_bundle_that_was_changed_afterwards_is_refused(
    command: Command, copied: Path, own_test_csv, tmp_path, changes, in_run, away
):
    changed(copied / "bundle", **changes)
    outcome = command("evaluate", copied, own_test_csv, "-o", tmp_path / "out", "--gallery", 0)
    assert (outcome.code, in_run in outcome.err) == (2, True), outcome.err
    assert "run finetune on the run's folder" in outcome.err
    moved = shutil.copytree(copied / "bundle", tmp_path / "bundle")
    for words in (("predict", moved, own_test_csv), ("evaluate", moved, own_test_csv)):
        outcome = command(*words, "-o", tmp_path / "out")
        assert (outcome.code, away in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "out").exists()
    assert len(lines_of(copied)) == 2


def test_a_lock_that_was_edited_or_a_bundle_of_another_run_is_refused(command: Command, copied: Path, own_test_csv):
    lock = contents(copied / DECISIONS_FILE)
    (copied / DECISIONS_FILE).write_text(json.dumps(lock | {"abstain_above_novelty": 0.5}))
    outcome = command("evaluate", copied, own_test_csv, "-o", copied.parent / "out", "--gallery", 0)
    assert (outcome.code, "is not a lock on decisions, or was edited" in outcome.err) == (2, True), outcome.err


def test_a_bundle_from_before_there_were_locks_still_loads(command: Command, run: FinishedRun, own_test_csv, tmp_path):
    bundle = shutil.copytree(run.bundle, tmp_path / "bundle")
    record = contents(bundle / RECORD_FILE)
    for key in ("lock_hash", "held_out", "reported", "chosen_point", "development", "files"):
        del record[key]
    (bundle / RECORD_FILE).write_text(json.dumps(record))
    outcome = command("evaluate", bundle, own_test_csv, "-o", tmp_path / "out", "--gallery", 0)
    assert outcome.code == 0, outcome.err
    metrics = contents(tmp_path / "out/metrics.json")
    assert (metrics["test_set_access"]["own"], metrics["test_set_access"]["lock_hash"]) == (None, "")
    assert "prevalence" not in metrics["baselines"]
    assert "not locked: the bundle predates locks" in without_tooltips((tmp_path / "out/report.html").read_text())
