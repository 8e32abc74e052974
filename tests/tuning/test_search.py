"""Real trials of a small network on made-up scans: what is tried, stored, stopped and resumed."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_run_data import small_config, small_run_data, source_of

from med_transfer.config import load_config
from med_transfer.errors import NothingDone
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.fold_training import is_trained
from med_transfer.finetuning.folds import train_folds
from med_transfer.progress import silent
from med_transfer.tuning import TuneConfig, Tuning
from med_transfer.tuning.deadline import Deadline
from med_transfer.tuning.inner_folds import without_test_scans
from med_transfer.tuning.record import Advantage, advantage
from med_transfer.tuning.report import advantage_text, as_markdown
from med_transfer.tuning.search import Search
from med_transfer.tuning.space import applied
from med_transfer.tuning.study import Study, TrialPruned

pytest.importorskip("optuna")

PLAN = small_run_data(0.6, 16, 6, members=2)
SPACE = {"strategies": ["full", "linear_probe"], "regularise": [], "learning_rate": [1e-4, 1e-1]}


def tune_config(training: dict | None = None, **tuning) -> TuneConfig:
    base = small_config(training={"epochs": 2, "monitor": "macro_auc"} | (training or {}))
    values = {"space": SPACE, "startup_trials": 2, "pruning": False} | tuning
    return TuneConfig.model_validate(base.model_dump() | {"tuning": values})


def with_full(config: TuneConfig, learning_rate: float) -> TuneConfig:
    transfer = {"strategy": {"name": "full", "learning_rate": learning_rate}}
    return TuneConfig.model_validate(config.model_dump() | {"transfer": transfer})


def search(out: Path, config: TuneConfig | None = None, *, run_data=PLAN, minutes=None, progress=silent) -> Search:
    config = config or tune_config()
    names = list(config.tuning.space.strategies or ())
    return Search(without_test_scans(run_data), source_of("sees"), config, names, out, Deadline(minutes), progress)


def trials_of(tuning: Tuning) -> list[tuple]:
    return [(trial.number, trial.state, trial.value, trial.figures, dict(trial.values)) for trial in tuning.trials]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Tuning:
    return search(tmp_path_factory.mktemp("unbroken")).run(3)


def test_the_default_is_trial_0_and_the_best_is_written_for_finetune(unbroken):
    first, best = unbroken.trials[0], unbroken.best
    assert (first.number, first.values, first.state) == (0, {}, "complete")
    assert best is not None
    assert best.value == max(trial.value for trial in unbroken.complete)
    assert best.value == pytest.approx(np.mean(best.figures))
    written = load_config(FinetuneConfig, unbroken.best_file)
    assert written == applied(unbroken.config.base, best.values)
    assert not list((unbroken.folder / "training").glob("*-fold-*"))


def test_tables_tell_the_same_as_the_trials(unbroken):
    table = rows(unbroken.folder)
    assert [int(row["trial"]) for row in table] == list(range(len(unbroken.trials)))
    for row, trial in zip(table, unbroken.trials, strict=True):
        assert (float(row["value"]), row["state"]) == (trial.value, "complete")
        assert [float(row["fold_1"]), float(row["fold_2"])] == list(trial.figures)
        assert row["transfer.strategy"] == trial.values.get("transfer.strategy", "")
    record = json.loads((unbroken.folder / "tuning.json").read_text())
    assert unbroken.best is not None
    assert record["best"]["number"] == unbroken.best.number
    assert record["trials"] == {"complete": len(table), "pruned": 0, "failed": 0, "unfinished": 0}
    assert record["objective"] == "macro_auc"
    text = (unbroken.folder / "tuning.md").read_text()
    assert "The winner's figure is biased upwards" in text
    assert "mean over 2 inner folds of the macro AUC" in text


def test_where_nobody_was_kept_apart_no_finetune_of_them_is_said_to_tell(unbroken):
    assert "Only the outer test scans of one final finetune" in as_markdown(unbroken)
    assert "The test scans were not used" in as_markdown(unbroken)
    text = as_markdown(replace(unbroken, tested=False))
    assert "none were held out, and all influenced the choice. Only patients of another cohort give" in text
    assert "No scans were held out for a test." in text
    assert "test scans" not in text


def test_a_lead_that_three_decimals_do_not_show_has_a_fourth(unbroken):
    first, second = unbroken.trials[:2]
    near = (replace(first, value=0.4341, figures=(0.4, 0.4682)), replace(second, value=0.4344, figures=(0.4, 0.4688)))
    text = as_markdown(replace(unbroken, trials=near))
    assert "Trial 1 reached 0.4344, the default 0.4341: +0.0003, 95 % interval" in text


def test_who_estimates_how_good_the_classifier_is_is_a_whole_sentence(unbroken):
    tested, untested = as_markdown(unbroken), as_markdown(replace(unbroken, tested=False))
    assert "the classifier is. Only the outer test scans of one final finetune, which no trial has seen, do." in tested
    assert "the classifier is. Nor do the figures of a finetune on these patients: " in untested


@pytest.mark.parametrize(
    ("state", "said"),
    [("failed", "; the training of the default diverged."), ("unfinished", "; the default has no figure yet.")],
)
def test_of_a_default_whose_training_diverged_no_figure_is_promised(unbroken, state, said):
    first, second = unbroken.trials[:2]
    trials = (replace(first, state=state, value=None), replace(second, state="complete", value=0.6))
    assert f"Trial 1 leads with 0.600{said}" in as_markdown(replace(unbroken, trials=trials))


def test_two_strengths_of_a_trial_are_told_apart(unbroken):
    values = {"augmentation.strength": 1.094, "transfer.l2_sp.strength": 0.1602, "transfer.regularise": ("l2_sp",)}
    text = as_markdown(replace(unbroken, trials=(replace(unbroken.trials[0], number=1, values=values),)))
    assert "| augmentation.strength 1.09, transfer.l2_sp.strength 0.16, transfer.regularise l2_sp |" in text


def test_going_on_repeats_nothing_and_ends_as_one_that_was_not_stopped(unbroken, tmp_path):
    half = search(tmp_path).run(1)
    told = []
    whole = search(tmp_path, progress=lambda stage, *_, **__: told.append(stage)).run(3)
    assert trials_of(whole) == trials_of(unbroken)
    assert whole.trials[: len(half.trials)] == half.trials
    assert not [stage for stage in told if stage.startswith(("trial 0,", "trial 1,"))]
    again = []
    assert trials_of(search(tmp_path, progress=lambda stage, *_: again.append(stage)).run(3)) == trials_of(unbroken)
    assert again == []


def test_a_stopped_trial_is_kept_and_finished_later(unbroken, tmp_path):
    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "trial 0, fold 2 of 2" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, progress=stop).run(3)
    (row,) = rows(tmp_path)
    assert (row["state"], bool(row["fold_1"]), row["fold_2"]) == ("unfinished", True, "")
    assert "stopped by hand; the same command continues" in (tmp_path / "tuning.md").read_text().lower()
    told = []
    whole = search(tmp_path, progress=lambda stage, *_, **__: told.append(stage)).run(3)
    assert trials_of(whole) == trials_of(unbroken)
    assert "trial 0, fold 1 of 2" not in told  # that fold was on disk
    assert "trial 0, fold 2 of 2" in told


def test_an_interrupt_that_was_swallowed_still_stops(tmp_path):
    def swallow(stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "trial 1, fold 1 of 2" and done == 1:
            with contextlib.suppress(KeyboardInterrupt):
                signal.getsignal(signal.SIGINT)(signal.SIGINT, None)  # as Python does when the signal has come

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, tune_config(space=SPACE | {"strategies": ["full"]}), progress=swallow).run(3)
    assert signal.getsignal(signal.SIGINT) is handler
    assert [row["state"] for row in rows(tmp_path)] == ["complete", "unfinished"]


def test_test_scans_have_no_say(unbroken, tmp_path):
    """Their voxels turned to NaN and their labels turned round change no trial."""
    spoilt = PLAN.prepared
    turned = {"with": "without", "without": "with"}
    cases, scans = list(spoilt.cohort.cases), list(spoilt.scans)
    for i in PLAN.split.test:
        cases[i] = replace(cases[i], label=turned[str(cases[i].label)])
        scans[i] = replace(scans[i], tensor=np.full_like(scans[i].tensor, np.nan))
    cohort = replace(spoilt.cohort, cases=tuple(cases))
    run_data = replace(PLAN, prepared=replace(spoilt, cohort=cohort, scans=tuple(scans)))
    assert trials_of(search(tmp_path, run_data=run_data).run(3)) == trials_of(unbroken)


def test_the_plan_of_a_search_holds_no_test_scan():
    run_data = replace(PLAN, split=replace(PLAN.split, test=(0, 5), validation=((1, 2, 3), (4, 6, 7))))
    inner = without_test_scans(run_data)
    assert inner.split.test == ()
    assert [case.scan for case in inner.prepared.cohort.cases] == ["1", "2", "3", "4", "6", "7"]
    for fold in range(2):
        for part, whole in (
            ("training", run_data.split.training(fold)),
            ("validation", run_data.split.validation[fold]),
        ):
            chosen = inner.split.training(fold) if part == "training" else inner.split.validation[fold]
            assert [inner.prepared.cohort.cases[i].scan for i in chosen] == [str(i) for i in whole]


def test_a_trial_below_the_median_is_stopped_early(tmp_path):
    """A network that cannot learn at a rate of 1e-9, after one that can."""
    config = tune_config(
        {"epochs": 8},
        pruning=True,
        prune_after_trials=1,
        prune_after_epochs=2,
        seed=1,
        space=SPACE | {"strategies": ["full"], "learning_rate": [1e-9, 2e-9]},
    )
    config = with_full(config, 0.02)
    found = search(tmp_path, config, run_data=small_run_data(1.0, 24, 6, members=2)).run(2)
    assert [trial.state for trial in found.trials] == ["complete", "pruned", "pruned"]
    assert found.best is not None
    assert found.best.number == 0
    assert "No trial beat the default config" in (tmp_path / "tuning.md").read_text()
    assert found.trials[1].reason == "below the median of the trials before it at the same epoch"


def test_the_median_of_the_same_step_decides(tmp_path):
    study = Study(tmp_path, tune_config(pruning=True, prune_after_trials=2, prune_after_epochs=1).tuning)
    for value in (0.9, 0.7):
        trial = study.next()
        for step in range(3):
            study.report(trial, step, value)
        study.tell(trial, "complete", value)
    low = study.next()
    study.report(low, 0, 0.1)  # too early
    with pytest.raises(TrialPruned):
        study.report(low, 1, 0.1)
    study.tell(low, "pruned")
    fair = study.next()
    for step in range(3):
        study.report(fair, step, 0.85)
    assert [trial.state for trial in study.records()] == ["complete", "complete", "pruned", "unfinished"]


def test_a_space_with_one_point_ends(tmp_path, monkeypatch):
    asked, draw_next = [], Study.next

    def noted(study, *, evenly=False):
        asked.append(evenly)
        return draw_next(study, evenly=evenly)

    monkeypatch.setattr(Study, "next", noted)
    config = tune_config(space=SPACE | {"strategies": ["linear_probe"]})
    found = search(tmp_path, config).run(50)
    repeats = [trial.repeats is not None for trial in found.trials]
    assert asked == [False, *repeats[:-1]]  # after a repeat not near it again, but anywhere in the space
    assert found.stopped == "the space holds nothing that was not tried"
    assert len({trial.value for trial in found.trials if trial.number}) == 1
    assert {trial.reason for trial in found.trials[2:]} == {"the same as trial 1"}
    assert {trial.repeats for trial in found.trials[2:]} == {1}


def test_time_ends_a_search(tmp_path):
    config = tune_config({"epochs": 100000, "patience": 100000})
    with pytest.raises(
        NothingDone, match=rf"{tmp_path.name}: no trial is complete: the time of 0\.02 minutes was over.*more --minutes"
    ):
        search(tmp_path, config, minutes=0.02).run(None)
    assert rows(tmp_path)[0]["state"] == "unfinished"
    assert not (tmp_path / "best.yaml").exists()


def test_what_was_found_in_time_is_given(tmp_path, monkeypatch):
    over = SimpleNamespace(monotonic=lambda: float("inf") if (tmp_path / "best.yaml").exists() else 0.0)
    monkeypatch.setattr("med_transfer.tuning.deadline.time", over)  # after a first result, however slow the machine
    found = search(tmp_path, minutes=0.03).run(None)
    assert "the time of 0.03 minutes was over" in found.stopped
    assert found.default is not None
    assert found.best_file.exists()


def test_time_that_is_over_with_a_fold_begins_no_further_fold(tmp_path, monkeypatch):
    def is_first_trained() -> bool:
        return any(is_trained(folder) for folder in tmp_path.glob("training/*-fold-0"))

    told = []
    over = SimpleNamespace(monotonic=lambda: float("inf") if is_first_trained() else 0.0)
    monkeypatch.setattr("med_transfer.tuning.deadline.time", over)
    with pytest.raises(NothingDone, match=f"{tmp_path.name}: .*the time of 1 minutes? was over"):
        search(tmp_path, minutes=1, progress=lambda stage, *_, **__: told.append(stage)).run(None)
    assert set(told) == {"trial 0, fold 1 of 2"}
    (row,) = rows(tmp_path)
    assert (bool(row["fold_1"]), row["fold_2"]) == (True, "")


def test_a_training_that_diverged_has_no_figure(tmp_path):
    config = tune_config({"gradient_clip": 1e30, "warmup_epochs": 0})
    config = with_full(config, 1e30)
    with pytest.raises(NothingDone, match=f"{tmp_path.name}: no trial is complete"):
        search(tmp_path, config).run(0)
    assert (rows(tmp_path)[0]["state"], rows(tmp_path)[0]["reason"]) == ("failed", "the training diverged")


def test_the_advantage_counts_that_folds_share_scans():
    """Worked out by hand: differences 0.1, 0.2, 0.3; variance 0.01; 1/3 + (1/3)/(2/3) = 5/6; t of 2 is 4.3027."""
    found = advantage([0.6, 0.7, 0.8], [0.5, 0.5, 0.5], 1 / 3)
    assert found.mean == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.1 * (5 / 6) ** 0.5)
    assert found.ci95 == pytest.approx((0.2 - 4.30265 * 0.0912871, 0.2 + 4.30265 * 0.0912871), abs=1e-5)
    alone = advantage([0.6], [0.5], 0.2)
    assert (alone.standard_error, alone.ci95) == (None, None)


def test_the_same_advantage_in_every_fold_is_not_certain():
    """With few scans a fold's balanced accuracy has few values; the interval was +0.050 to +0.050."""
    found = advantage([0.8, 0.7, 0.75], [0.75, 0.65, 0.7], 1 / 3)
    assert found.mean == pytest.approx(0.05)
    assert (found.standard_error, found.ci95) == (None, None)
    assert advantage_text(found) == "+0.050, no interval, as there is one fold or every fold gives the same"


@pytest.mark.parametrize(
    "mapping",
    [{"method": "autoencoder", "bottleneck": 2, "steps": 20}, {"method": "coral", "unlabelled": "others.csv"}],
    ids=lambda mapping: mapping["method"],
)
def test_features_are_mapped_in_a_trial_as_in_the_run_that_follows(tmp_path, mapping):
    config = tune_config(space={"strategies": ["linear_probe"], "regularise": []})
    transfer = {"strategy": "linear_probe", "mapping": mapping}
    config = TuneConfig.model_validate(config.model_dump() | {"transfer": transfer})
    run_data = replace(PLAN, unlabelled=small_run_data(0.6, 6, 0, seed=1).prepared)
    tuning = search(tmp_path, config, run_data=run_data).run(0)
    assert tuning.default is not None
    trained = train_folds(run_data, config.base, source_of("sees"), tmp_path, silent)
    figures = [member.history[0]["figure"] for member in trained.fold_models]
    assert list(tuning.default.figures) == pytest.approx(figures)


def test_a_small_loss_is_not_minus_0():
    assert advantage_text(Advantage(-0.0002, 0.0001, (-0.0004, 0.0001))) == (
        "-0.0002, 95 % interval over folds -0.0004 to +0.0001"
    )
