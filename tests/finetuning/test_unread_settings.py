"""Settings of the input and the split that a run does not read are named before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from med_transfer.cohorts import Case, Cohort, SplitConfig
from med_transfer.finetuning.unread_settings import ignored_input_settings, ignored_split_settings
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing.config import InputConfig

WINDOW = {"window_hu": (-160, 240)}
CHANNELS = {"channels": ["scan", {"column": "scan_b", "normalisation": "zscore"}]}


@pytest.mark.parametrize(
    ("settings", "unread"),
    [
        ({"clip_sd": 3}, ["input.clip_sd without effect: it is of normalisation=zscore"]),
        ({"clip_sd": 3, "normalisation": "zscore"}, []),
        ({"clip_sd": 3, "modality": "MR"}, []),
        (WINDOW, []),
        (WINDOW | {"modality": "MR"}, []),
        (WINDOW | {"normalisation": "zscore"}, ["input.window_hu without effect: it is of normalisation=window"]),
        (WINDOW | CHANNELS | {"clip_sd": 3}, []),
        (CHANNELS | {"normalisation": "zscore"} | WINDOW, ["input.window_hu without effect"]),
        (
            {"channels": ["scan", {"column": "scan", "normalisation": "zscore"} | WINDOW]},
            ["input.channels.1.window_hu without effect"],
        ),
        ({"channels": [{"column": "scan"} | WINDOW, "scan_b"]}, []),
    ],
)
def test_a_setting_of_another_normalisation_is_told_to_be_without_effect(settings, unread):
    asked = InputConfig.model_validate({"region": "whole"} | settings)
    said = ignored_input_settings(asked, asked.completed({"window_hu": (-1000.0, 1000.0)}))
    assert len(said) == len(unread)
    assert all(sentence.startswith(start) for sentence, start in zip(said, unread, strict=True))


@pytest.mark.parametrize(
    ("settings", "column", "unread"),
    [
        (
            {"val_fraction": 0.3, "test_fraction": 0.2},
            "",
            ["split.val_fraction without effect: it is of split.kind"],
        ),
        ({"val_fraction": 0.3, "test_fraction": 0}, "", []),  # of early stopping
        ({"val_fraction": 0.3, "kind": "holdout", "test_fraction": 0.2}, "", []),
        ({"folds": 3}, "train test", []),
        ({"folds": 3}, "train val test", ["split.folds without effect: the table's split column says"]),
        (
            {"val_fraction": 0.3, "kind": "holdout"},
            "train val test",
            ["split.val_fraction without effect: the table's"],
        ),
        ({"val_fraction": 0.3, "kind": "holdout"}, "train test", []),
        ({"test_fraction": 0.4}, "train test", ["split.test_fraction without effect: the table's split column says"]),
        ({"test_fraction": 0}, "train test", []),  # as a label budget divides a small cohort
        ({"test_fraction": 0.4}, "", []),
    ],
)
def test_a_setting_that_the_split_does_not_read_is_told_to_be_without_effect(settings: Any, column, unread):
    words = column.split() or [""]
    cases = [Case(f"{n}", Path(f"{n}"), f"p{n}", "ab"[n % 2], split=words[n % len(words)]) for n in range(60)]
    cohort = Cohort(tuple(cases), Labels(("a", "b")))
    said = ignored_split_settings(SplitConfig(**settings).resolved(cohort), cohort)
    assert len(said) == len(unread)
    assert all(sentence.startswith(start) for sentence, start in zip(said, unread, strict=True))
