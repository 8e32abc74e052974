"""Whom a run is evaluated on by default: with few patients all of them, by networks that did not see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from med_transfer.cohorts import Case, Cohort, CohortLock, SplitConfig, split_cohort
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.split_choice import choose_split, split_sentence
from med_transfer.predictions.labels import Labels
from med_transfer.tuning import TuneConfig

PROBE = {"transfer": {"strategy": {"name": "linear_probe"}}}


def cohort(n: int, split: str = "") -> Cohort:
    cases = [Case(f"{i}.nii", Path(f"{i}.nii"), f"p{i}", "ab"[i % 2], split=split) for i in range(n)]
    return Cohort(tuple(cases), Labels(("a", "b")))


def config(kind: type[FinetuneConfig] = FinetuneConfig, /, **sections) -> FinetuneConfig:
    return kind.model_validate(sections)


@pytest.mark.parametrize(
    ("n", "given", "said"),
    [
        (
            52,
            config(**PROBE),
            "split: no patients are held out for a test, split.test_fraction 0 (52 patients, under 60): development "
            "evidence, each patient predicted by networks that were not trained on it, in 5 folds drawn 5 times, "
            "the mean is reported (split.repeats; no network is trained)",
        ),
        (52, config(), "in 5 folds drawn once (split.repeats; each repeat trains 5 networks)"),
        (
            60,
            config(**PROBE),
            "split: 12 patients held out for the test, split.test_fraction 0.2 (60 patients, not",
        ),
        (52, config(fusion={"use": ["network", "handcrafted"]}), "split.test_fraction 0.2 (52 patients, under 60)"),
        (52, config(TuneConfig, **PROBE), "split.test_fraction 0.2 (52 patients, under 60)"),
        (52, config(split={"kind": "holdout"}), "split.test_fraction 0.2 (52 patients, under 60)"),
    ],
)
def test_the_table_decides_and_the_sentence_says_why(n, given, said):
    chosen = choose_split(given, cohort(n))
    assert said in split_sentence(chosen, cohort(n))
    assert choose_split(chosen, cohort(500)) == chosen


def test_a_folder_in_which_something_was_trained_keeps_its_split(tmp_path):
    """Also one from before the table decided: nobody who was kept apart is learned from when the run goes on."""
    table, before = cohort(52), SplitConfig(test_fraction=0.2)
    CohortLock.of(table, [()] * 52, split_cohort(table, before), before).write(tmp_path / "cohort.lock.json")
    assert choose_split(config(**PROBE), table, tmp_path).split == before
    assert choose_split(config(**PROBE, split={"test_fraction": 0}), table, tmp_path).split.test_fraction == 0


def test_what_a_table_says_itself_is_named():
    tests = [Case(f"t{i}.nii", Path(f"t{i}.nii"), f"t{i}", "ab"[i % 2], split="test") for i in range(4)]
    table = Cohort((*cohort(20, "train").cases, *tests), Labels(("a", "b")))
    assert "under 60; the table's split column decides" in split_sentence(choose_split(config(), table), table)
