"""``med-transfer tune``: from a table to a config that ``finetune`` accepts, its refusals, and Ctrl-C."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
from command_line import TINY, FinishedRun, locked, read_rows, settings, stopped, write_rows

from med_transfer.config import load_config
from med_transfer.errors import NothingDone
from med_transfer.finetuning import FinetuneConfig
from med_transfer.tuning import TuneConfig

ROOT = Path(__file__).parents[2]
SMALL = (*TINY, "training.epochs=1", "training.epoch_scans=8")
SPACE = ("tuning.space.strategies=[full]", "tuning.space.regularise=[]")
PROBE = ("transfer.strategy=linear_probe", "tuning.space.strategies=[linear_probe]")

pytest.importorskip("optuna")


def trials(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def tuned(command, cohort_csv, finished, tmp_path_factory) -> FinishedRun:
    out = tmp_path_factory.mktemp("tuned") / "search"
    words = settings(*SMALL, *SPACE, f"backbone.weights={finished.bundle}")
    return FinishedRun(out, command("tune", cohort_csv, "-o", out, *words, "--trials", 1))


def test_tune_writes_a_config_that_is_the_best_trial(tuned):
    assert tuned.outcome.code == 0, tuned.outcome.err
    table = trials(tuned.folder)
    assert [row["trial"] for row in table] == ["0", "1"]
    record = json.loads((tuned.folder / "tuning.json").read_text())
    best = table[record["best"]["number"]]
    assert float(best["value"]) == max(float(row["value"]) for row in table if row["value"])
    config = load_config(FinetuneConfig, tuned.folder / "best.yaml")
    if best["transfer.strategy"]:
        assert config.transfer.strategy.name == best["transfer.strategy"]
    if best.get("transfer.strategy.learning_rate"):
        assert config.transfer.strategy.learning_rate == pytest.approx(float(best["transfer.strategy.learning_rate"]))
    assert "Only the outer test scans of one final finetune" in tuned.outcome.out
    assert f"-c {tuned.folder / 'best.yaml'}" in tuned.outcome.out.splitlines()[-1]
    lock = json.loads((tuned.folder / "cohort.lock.json").read_text())
    assert record["n_scans"] == sum(case["role"] != "test" for case in lock["cases"])


def test_tune_again_tries_nothing_twice_and_speaks_json(command, tuned, cohort_csv, finished):
    before = trials(tuned.folder)
    words = settings(*SMALL, *SPACE, f"backbone.weights={finished.bundle}")
    outcome = command("tune", cohort_csv, "-o", tuned.folder, *words, "--trials", 1, "--json")
    assert outcome.code == 0, outcome.err
    assert trials(tuned.folder) == before
    assert json.loads(outcome.out)["trials"]["complete"] + json.loads(outcome.out)["trials"]["pruned"] == 2


def test_a_search_from_a_source_that_was_replaced_is_refused(command, tuned, cohort_csv, finished, tmp_path):
    out = tmp_path / "search"
    shutil.copytree(tuned.folder, out)
    words = ("tune", cohort_csv, "-o", out, *settings(*SMALL, *SPACE), "--trials", 1)
    made_from = json.loads((out / "made_from.json").read_text())
    (out / "made_from.json").write_text(json.dumps(made_from | {"source": "another"}))
    outcome = command(*words, *settings(f"backbone.weights={finished.bundle}"))
    assert outcome.code == 2
    assert "the folder holds a run from another source" in outcome.err


def test_a_trial_that_was_begun_from_another_source_is_refused_without_a_journal_too(
    command, tuned, cohort_csv, finished, tmp_path
):
    out = tmp_path / "search"
    shutil.copytree(tuned.folder, out)
    (out / "study.journal").unlink()  # as if it was damaged
    (out / "training/0-fold-0").mkdir(parents=True, exist_ok=True)  # left behind by a kill
    made_from = json.loads((out / "made_from.json").read_text())
    (out / "made_from.json").write_text(json.dumps(made_from | {"source": "another"}))
    words = settings(*SMALL, *SPACE, f"backbone.weights={finished.bundle}")
    outcome = command("tune", cohort_csv, "-o", out, *words, "--trials", 1)
    assert outcome.code == 2
    assert "the folder holds a run from another source" in outcome.err


def test_a_search_knows_whether_anybody_is_kept_apart(command, cohort_csv, tmp_path, monkeypatch):
    def told(*given):
        raise NothingDone(f"tested {given[-1]}")

    monkeypatch.setattr("med_transfer.tuning.run.Search", told)
    for fraction, tested in ((0, False), (0.34, True)):
        words = settings(*SMALL, f"split.test_fraction={fraction}")
        outcome = command("tune", cohort_csv, "-o", tmp_path / str(fraction), *words)
        assert (outcome.code, outcome.err.splitlines()[-1]) == (3, f"error: tested {tested}.")
        shutil.copytree(tmp_path / "0/prepared", tmp_path / "0.34/prepared", dirs_exist_ok=True)


def test_finetune_takes_the_best_config_and_keeps_the_same_test_scans(command, tuned, cohort_csv, tmp_path):
    words = ("finetune", cohort_csv, "-o", tmp_path / "run", "-c", tuned.folder / "best.yaml")
    outcome = command(*words, *settings("from_scratch_baseline=false"))
    assert outcome.code == 0, outcome.err
    locks = [json.loads((folder / "cohort.lock.json").read_text()) for folder in (tuned.folder, tmp_path / "run")]
    assert locks[0] == locks[1]


def test_labels_of_test_scans_change_no_trial(command, cohort_csv, finished, tmp_path):
    """The table says which scans are for testing; then their labels are turned round."""
    rows = read_rows(cohort_csv)
    classes = sorted({row["label"] for row in rows})
    cases = locked(finished.folder, [row["scan"] for row in rows])  # the source knows the other patients
    unseen = {scan for scan, case in cases.items() if case.role == "test"}
    for row in rows:
        part = "test" if row["scan"] in unseen else "train"
        row |= {"scan": str(cohort_csv.parent / row["scan"]), "split": part}
    found = []
    for turn in (0, 1):
        for row in rows:
            if row["split"] == "test":
                row["label"] = classes[(classes.index(row["label"]) + turn) % len(classes)]
        table, out = write_rows(tmp_path / f"{turn}.csv", rows), tmp_path / f"search-{turn}"
        words = settings(*SMALL, *PROBE, f"backbone.weights={finished.bundle}")
        outcome = command("tune", table, "-o", out, *words, "--trials", 1)
        assert outcome.code == 0, outcome.err
        found.append(without_times(trials(out)))
    assert found[0] == found[1]


def test_another_search_is_not_mixed_in(command, tuned, cohort_csv):
    outcome = command("tune", cohort_csv, "-o", tuned.folder, *settings(*SMALL), "--trials", 1)
    assert outcome.code == 2
    assert "the folder holds a search with another config; expected a new folder, or the same config" in outcome.err


def test_a_damaged_config_of_a_search_is_named_with_what_to_do(command, tuned, cohort_csv, tmp_path):
    out = tmp_path / "search"
    shutil.copytree(tuned.folder, out)
    (out / "tuning.yaml").write_text("training: {epo\n")
    outcome = command("tune", cohort_csv, "-o", out, *settings(*SMALL), "--trials", 1)
    assert outcome.code == 2
    assert "tuning.yaml, line 2: cannot be read (not valid YAML" in outcome.err
    assert "Remove it, and the same command makes it again, or choose another -o" in outcome.err


def test_without_optuna_the_extra_is_named(command, cohort_csv, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    outcome = command("tune", cohort_csv, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "package optuna is not installed. Run: pip install 'med-transfer[tune]'" in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_key_names_the_nearest(command, cohort_csv, tmp_path):
    outcome = command("tune", cohort_csv, "-o", tmp_path / "out", *settings("tuning.space.mixups=[0,1]"))
    assert outcome.code == 2
    assert "--set tuning.space.mixups: no such key; expected tuning.space.mixup perhaps" in outcome.err
    assert not (tmp_path / "out").exists()


def test_no_time_for_one_trial(command, cohort_csv, tmp_path):
    outcome = command("tune", cohort_csv, "-o", tmp_path / "out", *settings(*SMALL), "--minutes", 0)
    assert outcome.code == 3
    assert "the time of 0 minutes was over before all scans were read; expected time for reading them" in outcome.err
    assert "Run the same command again, with more --minutes perhaps: what was read is kept" in outcome.err
    assert len(list((tmp_path / "out/prepared").iterdir())) == 1


def test_endless_minutes_are_refused(command, cohort_csv, tmp_path):
    outcome = command("tune", cohort_csv, "-o", tmp_path / "out", "--minutes", "inf")
    assert outcome.code == 2
    assert "minutes inf; expected 0 or more, and finite" in outcome.err
    assert not (tmp_path / "out").exists()


def test_more_folds_than_there_are_is_refused(command, cohort_csv, tmp_path):
    outcome = command("tune", cohort_csv, "-o", tmp_path / "out", *settings(*SMALL, "tuning.folds=3"), "--trials", 1)
    assert outcome.code == 2
    assert "tuning.folds: 3 of 2 development folds; expected at most 2, or null for all" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_keeps_what_was_found_and_says_how_to_go_on(cohort_csv, tmp_path, as_json):
    """Stopped in its second trial; standard output holds JSON alone where it was asked for, here none."""
    words = ["tune", cohort_csv, "-o", tmp_path / "s", *settings(*SMALL, "split.folds=2"), *["--json"] * as_json]
    outcome = stopped(words, (tmp_path / "s/best.yaml").exists, signal.SIGINT, tmp_path)
    assert outcome.code == 130, outcome.err
    assert f"kept: {tmp_path / 's/best.yaml'} contains the best config so far" in (
        outcome.err if as_json else outcome.out
    )
    assert not (as_json and outcome.out)
    assert outcome.err.splitlines()[-1] == "error: stopped; run the same command again to continue"
    assert "Traceback" not in outcome.err
    assert trials(tmp_path / "s")[0]["state"] == "complete"


@pytest.mark.parametrize("path", sorted((ROOT / "configs/tuning").glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_are_configs_and_say_how_to_run_them(path):
    assert load_config(TuneConfig, path).tuning.space.strategies
    assert f"-c configs/tuning/{path.name} -o " in path.read_text()
