"""The estimated time of a run: from the split and the batches, and stored."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_cohort import made_up_cohort
from small_run_data import small_config

from med_transfer.backbones import load_backbone
from med_transfer.cohorts import split_cohort
from med_transfer.errors import ConfigError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.batches import FoldData, Part, training_batches
from med_transfer.finetuning.duration import MIN_EPOCHS, Cost, estimate, fit_to_time_limit, measure_cost
from med_transfer.finetuning.lightning_module import FinetuningModule
from med_transfer.finetuning.strategies.lora import LowRankChange
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig

COST = Cost(read=0.5, forward=0.1, step=2.0)
LEAST_MISSED = ("from_scratch_baseline", "explain.gallery")  # of parts that a run can omit
COHORT = made_up_cohort(["a", "b"] * 60).cohort


def config(**sections) -> FinetuneConfig:
    values = {"training": {"epochs": 40, "epoch_scans": 64, "batch_size": 8}, "split": {"test_fraction": 0.25}}
    return small_config(**(values | sections))


def test_training_is_as_many_steps_as_the_batches_of_each_fold():
    of_run, split = config(), split_cohort(COHORT, config().split)
    tensor = np.zeros((1, 16, 16, 16), np.float16)
    preprocessing = PreprocessingConfig(shape=(8, 8, 8))
    expected = 0.0
    for fold in range(split.n_fold_models):
        n = len(split.training(fold))
        truth = np.eye(2, dtype=bool)[np.arange(n) % 2]
        data = FoldData(COHORT.labels, Part([tensor] * n, [(1.0, 1.0, 1.0)] * n, truth))
        steps = len(training_batches(data, of_run, preprocessing, 0))
        expected += 40 * (steps * COST.step + len(split.validation[fold]) * COST.forward)
        expected += len(split.development) * COST.forward
    found = estimate(of_run, split, COST)
    assert found.training == pytest.approx(expected)
    assert found.baseline == pytest.approx(expected)  # the same network on the same folds
    assert found.reading == 120 * 0.5
    shown = of_run.model_copy(update={"explain": of_run.explain.model_copy(update={"gallery": 3})})
    assert estimate(shown, split, COST).seconds - found.seconds == pytest.approx(3 / 6 * found.maps - found.maps)
    assert found.maps > 6 * 10 * COST.forward


def test_a_linear_head_takes_one_pass_of_each_scan():
    frozen = config(strategy="linear_probe", from_scratch_baseline=False)
    found = estimate(frozen, split_cohort(COHORT, frozen.split), Cost(0.5, 0.1, 0.0))
    assert (found.training, found.baseline) == (pytest.approx(120 * 0.1), 0)


def test_each_fold_of_each_repeat_has_a_linear_head_of_its_own():
    repeated = {"test_fraction": 0, "folds": 5, "repeats": 3}
    frozen = config(strategy="linear_probe", from_scratch_baseline=False, split=repeated)
    found = estimate(frozen, split_cohort(COHORT, frozen.split), Cost(0.5, 0.1, 0.0, head=2.0))
    assert found.training == pytest.approx(120 * 0.1 + 5 * 3 * 2.0)
    without, trained = Cost(0.5, 0.1, 2.0), config()  # whose head starts from random weights
    split = split_cohort(COHORT, trained.split)
    assert estimate(trained, split, replace(without, head=2.0)) == estimate(trained, split, without)


def test_the_baseline_is_trained_in_the_first_repeat_alone():
    once, repeated = (config(strategy="linear_probe", split={"test_fraction": 0, "repeats": n}) for n in (1, 5))
    found = [estimate(each, split_cohort(COHORT, each.split), COST).baseline for each in (once, repeated)]
    assert found[0] == found[1] > 0


def test_pretraining_is_told_by_itself_and_given_up_last():
    backbone = {"name": "slices-efficientnet-lite0", "pretrain": "painted_lesions"}
    pretrained = config(strategy="linear_probe", from_scratch_baseline=False, backbone=backbone)
    split, cost = split_cohort(COHORT, pretrained.split), Cost(0.5, 0.1, 0.0, pretraining_step=0.5)
    found = estimate(pretrained, split, cost)
    assert (found.pretraining, found.training) == (pytest.approx(5 * 300), pytest.approx(5 * 120 * 0.1))
    assert "pretraining of 5 encoders 25 min, 5 min each" in found.sentence
    two_at_once = estimate(pretrained, split, replace(cost, encoders_at_once=2))
    assert two_at_once.pretraining == pytest.approx(3 * 300)
    assert "pretraining of 5 encoders 15 min, 2 at once" in two_at_once.sentence
    fitting, given_up = fit_to_time_limit(24, pretrained, COHORT, cost)
    assert [one.key for one in given_up] == ["explain.gallery", "backbone.pretraining.steps"]
    assert 400 <= fitting.backbone.pretraining.steps < 600
    assert 23.9 * 60 < estimate(fitting, split, cost).seconds <= 24 * 60
    fitting, given_up = fit_to_time_limit(4, pretrained, COHORT, cost)
    assert [one.key for one in given_up] == ["explain.gallery", "backbone.pretrain"]
    assert fitting.backbone.pretrain is None


def test_without_a_limit_of_note_nothing_is_given_up():
    asked = config()
    assert fit_to_time_limit(1e6, asked, COHORT, COST) == (asked, [])


@pytest.mark.parametrize(
    ("minutes", "keys"),
    [
        (100, ["from_scratch_baseline"]),
        (40, [*LEAST_MISSED, "training.epochs"]),
        (12, [*LEAST_MISSED, "training.epochs", "split.kind", "training.epochs"]),
        (2, [*LEAST_MISSED, "training.epochs", "split.kind", "training.epochs", "transfer.strategy"]),
    ],
)
def test_what_goes_first_costs_least(minutes, keys):
    fitting, given_up = fit_to_time_limit(minutes, config(), COHORT, COST)
    assert [one.key for one in given_up] == keys
    assert all(one.loss for one in given_up)
    assert estimate(fitting, split_cohort(COHORT, fitting.split), COST).seconds <= 60 * minutes
    if fitting.transfer.strategy.trains:
        assert fitting.training.epochs >= MIN_EPOCHS


@settings(max_examples=20)
@given(st.floats(0.01, 500), st.floats(1e-3, 5), st.floats(1e-4, 2), st.floats(1e-3, 60), st.booleans())
def test_the_time_is_kept_or_refused_with_what_it_takes(minutes, read, forward, step, baseline):
    cost, asked = Cost(read, forward, step), config(from_scratch_baseline=baseline)
    least = config(strategy="linear_probe", from_scratch_baseline=False, explain={"gallery": 0})
    if estimate(least, split_cohort(COHORT, least.split), cost).seconds > 60 * minutes:
        with pytest.raises(ConfigError, match=r"--minutes: .*expected at least \d+ on this machine \(start"):
            fit_to_time_limit(minutes, asked, COHORT, cost)
    else:
        fitting, _ = fit_to_time_limit(minutes, asked, COHORT, cost)
        assert estimate(fitting, split_cohort(COHORT, fitting.split), cost).seconds <= 60 * minutes


@pytest.mark.parametrize(
    ("asked", "given_up"),
    [
        ({"transfer": {"on_harm": "fallback"}}, ["transfer.on_harm"]),
        ({"transfer": {"regularise": ["delta", "bss"]}}, ["transfer.regularise"]),
        ({"transfer": {"align": {"method": "mmd", "unlabelled": "there.csv"}}}, ["transfer.align"]),
        ({"transfer": {"batch_norm": "train"}}, ["transfer.batch_norm"]),
        ({"transfer": {"batch_norm": "bn_adapt"}}, []),
        ({"training": {"averaging": "ema"}}, ["training.averaging"]),
    ],
)
def test_what_does_not_go_with_what_is_left_is_given_up_with_it(asked, given_up):
    of_run = config(strategy="full", **asked)
    fitting, lost = fit_to_time_limit(1.6, of_run, COHORT, COST)
    assert fitting.transfer.strategy.name == "linear_probe"
    plain = [one.key for one in fit_to_time_limit(1.6, config(), COHORT, COST)[1]]
    assert sorted(one.key for one in lost) == sorted([*plain, *given_up])
    fitting.resolved(from_source=True)


def test_training_from_random_values_does_not_become_a_frozen_head():
    assert fit_to_time_limit(1.6, config(strategy="full"), COHORT, COST)[0].transfer.strategy.name == "linear_probe"
    with pytest.raises(ConfigError, match=r"--minutes: .*expected at least \d+ on this machine \(start"):
        fit_to_time_limit(1.6, config(strategy="scratch"), COHORT, COST)


def test_a_split_of_the_table_is_left_as_it_is():
    parts = itertools.cycle(["train", "train", "test"])
    cases = tuple(case.__class__(**(vars(case) | {"split": next(parts)})) for case in COHORT.cases)
    table = COHORT.__class__(cases, COHORT.labels)
    _, given_up = fit_to_time_limit(2, config(), table, COST)
    assert "split.kind" not in [one.key for one in given_up]


@pytest.mark.parametrize("strategy", ["auto", "linear_probe"])
def test_cost_is_measured_on_the_network_that_will_be_trained(strategy, own_seconds):
    source = load_backbone("resnet18-w32", seed=0)
    small, large = (
        measure_cost(
            FinetuneConfig.model_validate(
                {
                    "backbone": {"name": "resnet18-w32"},
                    "input": {"shape": [side] * 3, "region": "whole"},
                    "training": {"batch_size": 2},
                    "transfer": {"strategy": "scratch" if strategy == "auto" else strategy},
                }
            ),
            source,
            Labels(("a", "b")),
            0.25,
            40,
        )
        for side in (16, 64)
    )
    assert large.forward > 3 * small.forward
    assert (large.step > 3 * small.step) if strategy == "auto" else (small.step == large.step == 0)
    assert 0 < small.head < 60
    assert small.read == 0.25


@pytest.mark.parametrize(
    ("transfer", "images", "penalties"),
    [
        ({"strategy": {"name": "lora", "rank": 2}}, 1, 0),
        ({"strategy": "full", "regularise": ["delta", "bss"]}, 1, 2),
        ({"strategy": "full", "align": {"method": "dann", "unlabelled": "there.csv"}}, 2, 0),
    ],
)
def test_the_step_that_is_timed_is_the_one_that_is_trained(transfer, images, penalties, monkeypatch):
    """With all that costs time in it: low-rank changes in each layer, penalties, unlabelled scans beside the others."""
    steps, real = [], FinetuningModule.training_step

    def watched(module, batch, index):
        changes = sum(isinstance(part, LowRankChange) for part in module.classifier.modules())
        steps.append((changes, len(batch) - 1, len(module.penalties), module.alignment is not None))
        return real(module, batch, index)

    monkeypatch.setattr(FinetuningModule, "training_step", watched)
    source, small = load_backbone("resnet18-w8", seed=0), {"shape": [16] * 3, "region": "whole"}
    of_run = config(transfer=transfer, input=small, backbone={"name": "resnet18-w8"}).resolved(from_source=True)
    measure_cost(of_run, source, Labels(("a", "b")), 0.25, 40)
    lora = of_run.transfer.strategy.name == "lora"
    assert {(changes > 10, *others) for changes, *others in steps} == {(lora, images, penalties, images == 2)}


def test_a_step_of_one_scan_is_timed_with_the_statistics_that_it_is_trained_with():
    """The source's, which stay: of single scans of one voxel there would be none."""
    small = {"shape": [16] * 3, "region": "whole"}
    of_run = config(strategy="full", input=small, backbone={"name": "resnet18-w8"}, training={"batch_size": 1})
    source = load_backbone("resnet18-w8", seed=0)
    assert measure_cost(of_run.resolved(from_source=True), source, Labels(("a", "b")), 0.25, 40).step > 0
