"""Settings at the edges of what the config allows: refused by name before a scan is read, or trained to the end."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from command_line import TINY, read_rows
from small_run_data import small_config, small_run_data, source_of

import med_transfer as mt
from med_transfer.cohorts import Cohort, SplitConfig, split_cohort
from med_transfer.config import _known_keys, load_config
from med_transfer.errors import ConfigError, TooFewPatients, TrainingDiverged
from med_transfer.finetuning import FinetuneConfig, data_setup
from med_transfer.finetuning.folds import train_folds
from med_transfer.finetuning.strategies import STRATEGIES
from med_transfer.pretraining import PretrainingConfig
from med_transfer.progress import silent

DATA = small_run_data(signal=0.7, n=12, n_test=0, members=2)
NUMBERS = ("{}", "[{0}]", "[{0}, {0}]", "[{0}, {0}, {0}]", "{{a: {}}}")


@pytest.mark.parametrize(("model", "base"), [(FinetuneConfig, {}), (PretrainingConfig, {"steps": 1})])
def test_no_setting_can_be_infinite_or_no_number(model, base):
    load_config(model, None, base=base)
    for key, number, form in product(dict.fromkeys(_known_keys(model)), (".inf", ".nan"), NUMBERS):
        override = f"{key}={form.format(number)}"
        with pytest.raises(ConfigError):
            pytest.fail(f"{override} gives {load_config(model, None, [override], base=base)}")


def test_a_value_of_another_type_is_taken_as_one_of_the_settings_own_or_refused():
    values = ("null", "true", "x", "-1", "1.5", "[]", "[[]]", "{}", "{name: [full]}", "{a: {b: c}}")
    for key, value in product(dict.fromkeys(_known_keys(FinetuneConfig)), values):
        with contextlib.suppress(ConfigError):
            load_config(FinetuneConfig, None, [f"{key}={value}"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_setting_of_a_strategy_can_be_infinite_or_no_number(strategy):
    base = {"transfer": {"strategy": {"name": strategy} | ({"stages": [0]} if strategy == "surgical" else {})}}
    for key, number in product(STRATEGIES[strategy].model_fields.keys() - {"name", "stages"}, (".inf", ".nan")):
        with pytest.raises(ConfigError, match=rf"transfer.strategy.{key}: found (inf|nan); expected"):
            load_config(FinetuneConfig, None, [f"transfer.strategy.{key}={number}"], base=base)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(ConfigError, match=r"seed: found .*; expected a value (greater|less) than"):
        load_config(FinetuneConfig, None, [f"seed={seed}"])


def test_the_greatest_seed_has_one_for_every_fold_of_every_repeat(tmp_path):
    config = small_config("full", training={"epochs": 1}, seed=2**32 - 1)
    for repeat in (1, 2):
        train_folds(DATA, config, source_of("sees"), tmp_path, silent, repeat=repeat)


def test_the_smallest_fractions_hold_out_one_patient_which_is_too_few(cohort_csv):
    for settings in ({"test_fraction": 5e-324}, {"kind": "holdout", "test_fraction": 0, "val_fraction": 5e-324}):
        with pytest.raises(TooFewPatients, match=r"cohort\.csv: class .* is missing from (the test set|validation 0)"):
            split_cohort(Cohort.read(cohort_csv), SplitConfig.model_validate(settings))


def test_no_feature_map_at_all_is_refused(cohort_csv, tmp_path):
    with pytest.raises(ConfigError, match=r"backbone.pooled_stages: pooled stages \[\]; expected different numbers"):
        mt.finetune(cohort_csv, out=tmp_path, overrides=(*TINY, "backbone.pooled_stages=[]"))


def test_a_network_whose_novelty_overflows_makes_no_bundle(tmp_path):
    """Its outputs are finite; the squared distances of its features are not, and its bundle could not be loaded."""
    source = source_of("sees")
    with torch.no_grad():
        source.encoder.layer2[1].weight.fill_(1e22)
    with pytest.raises(TrainingDiverged, match=r"training: .*fold 1 of 2: .* too large for its novelty to be finite"):
        train_folds(DATA, small_config("linear_probe"), source, tmp_path, silent)


def without_content(run_data, rows):
    """The same scans, those of these rows without content."""
    scans = [
        replace(scan, tensor=np.zeros_like(scan.tensor)) if row in rows else scan
        for row, scan in enumerate(run_data.prepared.scans)
    ]
    return replace(run_data.prepared, scans=tuple(scans))


@pytest.mark.parametrize(
    "override",
    [
        "input.window_hu=[5000, 6000]",
        "input.output_range=[0, 1e-9]",
        "input.channels=[scan, {column: scan, window_hu: [5000, 6000]}]",
    ],
)
def test_an_input_of_which_nothing_is_left_is_refused_before_training(cohort_csv, tmp_path, override):
    number = 2 if "channels" in override else 1
    n_scans = len(read_rows(cohort_csv))
    with pytest.raises(
        ConfigError, match=rf"^input: channel {number} \(scan, window .*\) is a single value in each of {n_scans} scans"
    ):
        mt.finetune(cohort_csv, out=tmp_path, overrides=(*TINY, override))
    assert not (tmp_path / "training").exists()


def test_a_single_scan_of_which_nothing_is_left_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        data_setup._require_contrast(without_content(DATA, {3}), DATA.preprocessing)
    assert caplog.messages == ["the network's input is a single value in 1 of 12 scans: 3"]
