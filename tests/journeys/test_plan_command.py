"""``med-transfer plan``, and ``finetune`` without a config: the choice is reported, stored, and trained."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import Command, read_rows, settings, write_rows

import med_transfer as mt
from med_transfer.api.planned import QUICK, config_for, keep_plan, set_by_user
from med_transfer.cli.options import finetune_command
from med_transfer.config import load_config
from med_transfer.errors import UsageError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.tuning import TuneConfig

SMALL = settings(
    "backbone.name=med-transfer-small", "input.shape=[16,16,16]", "split.folds=2", "split.test_fraction=0.34"
)
BRIEF = ("explain.gallery=0", "split.repeats=1")


@pytest.fixture(scope="module")
def planned(command: Command, cohort_csv: Path, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    return path, command("plan", cohort_csv, "-o", path, *SMALL)


def test_plan_writes_a_config_and_says_why_and_how_long(planned):
    path, outcome = planned
    assert outcome.code == 0, outcome.err
    assert "18 scans of 18 patients; ground-glass 6, part-solid 6, solid 6" in outcome.out
    assert "input.region: roi (the table gives one for all 18 scans)" in outcome.out
    assert "this will take at most about" in outcome.out
    config = load_config(FinetuneConfig, path)
    assert (config.backbone.name, config.input.region, config.input.shape) == (
        "med-transfer-small",
        "roi",
        (16, 16, 16),
    )
    assert "set by you" in path.read_text()


def test_a_quoted_name_of_a_backbone_is_its_name(cohort_csv):
    """As ``labels budget --backbone`` and a shell's user write it."""
    config, _ = config_for(FinetuneConfig, mt.Cohort.read(cohort_csv), None, ['backbone.name="med-transfer-small"'])
    assert config.backbone.name == "med-transfer-small"


def test_a_class_of_one_patient_is_told_before_a_scan_is_looked_at(command, cohort_csv, tmp_path):
    rows = [{**row, "scan": str(cohort_csv.parent / row["scan"])} for row in read_rows(cohort_csv)]
    of_one = next(number for number, row in enumerate(rows) if row["label"] == "solid")
    few = [row for number, row in enumerate(rows) if row["label"] != "solid" or number == of_one]
    outcome = command("plan", write_rows(tmp_path / "cohort.csv", few))
    assert outcome.code == 2
    assert "class 'solid' has 1 patient; expected at least 2, one each for 2 folds. Add patients" in outcome.err
    assert "looking at scans" not in outcome.err


def test_plan_without_a_file_is_the_file_and_json_is_for_programs(command, cohort_csv, planned):
    printed = command("plan", cohort_csv, *SMALL)
    same = [line for line in planned[0].read_text().splitlines() if not line.startswith(("# med-transfer", "# takes"))]
    assert set(same) <= set(printed.out.splitlines())
    record = json.loads(command("plan", cohort_csv, "--quick", "--json", *SMALL).out)
    assert {"facts", "choices", "seconds"} == set(record)
    chosen = {choice["key"]: choice["value"] for choice in record["choices"]}
    why = {choice["key"]: choice["reason"] for choice in record["choices"]}
    assert (why["from_scratch_baseline"], why["input.shape"]) == ("--quick", "set by you")
    assert chosen["transfer.strategy"]["name"] == "linear_probe"
    assert chosen["from_scratch_baseline"] is False


@pytest.mark.parametrize(("before", "reason"), [(QUICK, "--quick"), ((), "set by you")])
def test_what_quick_sets_is_set_by_the_user_where_it_is_typed(before, reason):
    config = FinetuneConfig(from_scratch_baseline=False)
    choices = set_by_user(config, [*before, "seed=3", *(() if before else ("from_scratch_baseline=false",))])
    reasons = {choice.key: choice.reason for choice in choices}
    assert (reasons["from_scratch_baseline"], reasons["seed"]) == (reason, "set by you")


def test_only_a_config_is_written_over(command, cohort_csv, tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_bytes(cohort_csv.read_bytes().replace(b"scans/", f"{cohort_csv.parent}/scans/".encode()))
    before = table.read_bytes()
    outcome = command("plan", table, "-o", table, *SMALL)
    assert (outcome.code, "there is already something other than a config of finetune" in outcome.err) == (2, True), (
        outcome.err
    )
    assert table.read_bytes() == before


def test_the_command_that_is_told_can_be_typed_whatever_the_files_are_called():
    words = ["med-transfer", "finetune", "my scans/c;o.csv", "-c", "it's.yaml", "-o", "RUN"]
    assert shlex.split(finetune_command(Path(words[2]), "-c", words[4], "-o", "RUN")) == words


def test_a_file_that_begins_with_a_dash_is_told_as_no_option():
    """``Path`` drops the ``./`` that the user typed before it."""
    assert finetune_command(Path("./-c.csv"), "-o", Path("./-run")) == "med-transfer finetune ./-c.csv -o ./-run"


def test_python_plans_the_same(cohort_csv, planned):
    overrides = tuple(word for word in SMALL if word != "--set")
    assert mt.plan(cohort_csv, overrides).config == load_config(FinetuneConfig, planned[0])


def test_finetune_without_a_config_prints_the_plan_trains_it_and_goes_on_with_it(command, cohort_csv, tmp_path):
    run = tmp_path / "run"
    words = ("finetune", cohort_csv, "-o", run, "--plan", "--quick", *SMALL, *settings(*BRIEF))
    first = command(*words)
    assert first.code == 0, first.err
    assert first.out.index("input.region: roi") < first.out.index("this will take") < first.out.index("bundle: ")
    config = load_config(FinetuneConfig, run / "config.yaml")
    assert (config.transfer.strategy.name, config.from_scratch_baseline) == ("linear_probe", False)
    assert "whether transfer helped or harmed was not measured" in (run / "metrics.json").read_text()
    features = {path: path.stat().st_mtime_ns for path in (run / "training").rglob("*") if path.is_file()}
    again = command("finetune", cohort_csv, "-o", run, "--plan", "--minutes", 20)
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in features} == features
    assert "this will take" not in again.out


def test_a_plan_of_another_cohort_is_refused_or_warned_of(command, cohort_csv, planned, tmp_path):
    rows = [{**row, "scan": str(cohort_csv.parent / row["scan"])} for row in read_rows(cohort_csv)]
    rows = [row | ({"mask": str(cohort_csv.parent / row["mask"])} if row.get("mask") else {}) for row in rows]
    two = write_rows(tmp_path / "two.csv", [row for row in rows if row["label"] != "solid"])
    outcome = command("finetune", two, "-c", planned[0], "-o", tmp_path / "run")
    assert outcome.code == 2
    assert "planned for classes 3 (one a scan), and the table has 2 (one a scan)" in outcome.err
    assert not (tmp_path / "run").exists()
    renamed = write_rows(tmp_path / "renamed.csv", [row | {"label": f"{row['label']}?"} for row in rows])
    outcome = command("preview", renamed, "-c", planned[0], "-o", tmp_path / "preview", "--per-class", 1, "--draws", 0)
    assert "planned for another cohort: class names: planned for ground-glass" in outcome.err


def test_a_setting_under_its_old_name_is_kept_in_the_file(command, cohort_csv, planned, tmp_path):
    path, old = tmp_path / "plan.yaml", settings("training.learning_rate=0.002", "scratch_twin=false")
    outcome = command("plan", cohort_csv, "-o", path, *SMALL, *old)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("config key scratch_twin is now called") == 1
    config = load_config(FinetuneConfig, path)
    assert (config.transfer.strategy.learning_rate, config.from_scratch_baseline) == (0.002, False)


def test_less_time_than_anything_takes_is_refused_before_training(command, cohort_csv, tmp_path):
    outcome = command("finetune", cohort_csv, "-o", tmp_path / "run", "--plan", "--minutes", 0.1, *SMALL)
    assert outcome.code == 2
    assert re.search(r"--minutes: 0\.1 minutes; expected at least \d+ on this machine \(start", outcome.err)
    assert not (tmp_path / "run").exists()


def test_a_network_of_random_values_is_not_frozen_for_the_sake_of_time(command, cohort_csv, tmp_path):
    slow = settings("backbone.name=resnet18-w8", "training.epoch_scans=1000000", "training.batch_size=4", *BRIEF)
    outcome = command("finetune", cohort_csv, "-o", tmp_path / "run", "--plan", "--minutes", 2, *SMALL, *slow)
    assert outcome.code == 2
    assert "--minutes: 2 minutes; expected at least " in outcome.err  # a linear head would have fitted


def test_a_given_config_is_timed_too(command, cohort_csv, planned, tmp_path):
    quick = settings("training.epochs=1", "training.epoch_scans=8", "training.batch_size=4", *BRIEF)
    words = ("finetune", cohort_csv, "-c", planned[0], "-o", tmp_path / "run", "--plan", *quick)
    outcome = command(*words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.index("this will take at most about") < outcome.out.index("bundle: ")


@pytest.mark.parametrize("words", [("select",), ("tune",), ("labels", "budget"), ("finetune",), ("preview",)])
@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("split.flods=2", "no such key; expected split.folds perhaps"),
        ("training.epochs=many", "--set training.epochs: found 'many'; expected"),
        ("input.shape", "--set: 'input.shape'; expected section.key=value"),
    ],
)
def test_a_slip_of_the_hand_is_told_before_a_scan_is_looked_at(command, cohort_csv, tmp_path, words, setting, found):
    outcome = command(*words, cohort_csv, "-o", tmp_path / "out", "--plan", *settings(setting))
    assert (outcome.code, found in outcome.err) == (2, True), outcome.err
    assert "looking at scans" not in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_option_of_the_strategy_that_will_be_planned_is_no_slip(command, cohort_csv, tmp_path):
    """``rank`` is of LoRA alone: whether that is the strategy is known with the plan, which is asked first."""
    outcome = command("plan", cohort_csv, "-o", tmp_path / "plan.yaml", *settings("transfer.strategy.rank=4"), *SMALL)
    assert "no such key with" in outcome.err
    assert "looking at scans" in outcome.err


def test_select_ranks_for_the_plan_and_says_the_finetune_that_takes_it(command, cohort_csv, planned, tmp_path):
    out, names = tmp_path / "selection", ("--backbones", "med-transfer-small")
    outcome = command("select", cohort_csv, "-o", out, "--plan", *names, *SMALL)
    assert outcome.code == 0, outcome.err
    assert outcome.out.index("input.region: roi (the table gives one") < outcome.out.index("recommended: ")
    assert load_config(FinetuneConfig, out / "plan.yaml") == load_config(FinetuneConfig, planned[0])
    given = command("select", cohort_csv, "-c", planned[0], "-o", tmp_path / "given", *names)
    scores = [json.loads((folder / "selection.json").read_text()) for folder in (out, tmp_path / "given")]
    for score in (record["ranking"][0] for record in scores):
        del score["cost"]
    assert scores[0]["ranking"] == scores[1]["ranking"], given.err
    words = tuple(word for word in SMALL if word != "--set")
    mt.select_backbone(cohort_csv, out=out, names=["med-transfer-small"], overrides=words)
    again = json.loads((out / "selection.json").read_text())
    del again["ranking"][0]["cost"]
    assert again["ranking"] == scores[0]["ranking"]
    files = [
        shlex.split(line)[shlex.split(line).index("-c") + 1] for line in outcome.out.splitlines() if "next:" in line
    ]
    assert files in ([], [str(out / "plan.yaml")])


def test_a_plan_that_was_corrected_by_hand_is_not_lost(command, cohort_csv, tmp_path):
    out, words = tmp_path / "selection", ("--plan", "--backbones", "med-transfer-small", *SMALL)
    command("select", cohort_csv, "-o", out, *words)
    plan = out / "plan.yaml"
    told = command("select", cohort_csv, "-o", out, *words)
    assert "the plan that was there" not in told.err  # the same one
    by_hand = plan.read_text().replace("monitor: macro_auc", "monitor: loss") + "# what the clinic wants\n"
    plan.write_text(by_hand)
    told = command("select", cohort_csv, "-o", out, *words)
    assert f"{out / 'plan.before.yaml'}: the plan that was there, with other settings; -c takes it" in told.err
    assert (out / "plan.before.yaml").read_text() == by_hand
    assert load_config(FinetuneConfig, plan).training.monitor == "macro_auc"


def test_tune_searches_from_the_plan_and_goes_on_with_it(command, cohort_csv, tmp_path):
    pytest.importorskip("optuna")
    out, probe = tmp_path / "search", settings("transfer.strategy=linear_probe", "tuning.folds=1")
    words = ("tune", cohort_csv, "-o", out, "--plan", *SMALL, *probe, "--trials", 0)
    first = command(*words)
    assert first.code == 0, first.err
    assert "input.region: roi (the table gives one for all 18 scans)" in first.out
    best, plan = load_config(FinetuneConfig, out / "best.yaml"), load_config(TuneConfig, out / "plan.yaml")
    assert (best.input, best.planned_for) == (plan.input, plan.planned_for)
    again = command(*words)
    assert (again.code, "looking at scans" in again.err) == (0, False), again.err


def test_a_budget_is_measured_for_the_plan(command, cohort_csv, planned, tmp_path):
    out, sizes = tmp_path / "budget", ("--repeats", 1, "--sizes", 4, "--smallest", 6)
    outcome = command("labels", "budget", cohort_csv, "-o", out, "--plan", *SMALL, *sizes)
    assert outcome.code == 0, outcome.err
    assert "input.region: roi (the table gives one for all 18 scans)" in outcome.out
    assert load_config(FinetuneConfig, out / "plan.yaml") == load_config(FinetuneConfig, planned[0])


def test_the_plan_of_another_job_in_the_folder_stays(tmp_path):
    keep_plan(tmp_path, "seed: 1\n", "a ranking of backbones")
    (tmp_path / "selection.json").write_text("{}")
    with pytest.raises(UsageError, match="the folder holds a ranking of backbones; .* Choose another -o"):
        keep_plan(tmp_path, "seed: 2\n", "a label budget")
    assert {path.name for path in tmp_path.iterdir()} == {"plan.yaml", "selection.json"}
    assert (tmp_path / "plan.yaml").read_text() == "seed: 1\n"
