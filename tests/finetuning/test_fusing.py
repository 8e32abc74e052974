"""The fusion learns from out-of-fold outputs alone: not from what a network knows by heart, never from a test scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_plan import MARGIN, small_config, small_plan, source_of

from med_transfer.cohorts import Cohort, PreparedCohort
from med_transfer.cohorts.handcrafted import FEATURE_NAMES
from med_transfer.errors import CohortError, TooFewPatients
from med_transfer.evaluation.evaluate import assess
from med_transfer.finetuning.data_setup import Plan
from med_transfer.finetuning.decisions.fusing import check_fusion, fuse_run
from med_transfer.finetuning.folds import TrainedEnsemble
from med_transfer.finetuning.run import train
from med_transfer.progress import silent

N = 32
FUSION = {
    "use": ["network", "handcrafted", "columns"], "columns": ["age", "ward"], "penalty": 0.1, "method": "stacked",
}  # fmt: skip
LONG = {"epochs": 40, "epoch_scans": N, "dropout": 0, "label_smoothing": 0, "weight_decay": 0, "learning_rate": 0.02}
CONFIG = small_config("scratch", training=LONG | {"averaging": "swa"}, fusion=FUSION)  # without early stopping


def with_knowledge(plan: Plan, seed: int = 0) -> Plan:
    """One handcrafted feature that knows the class a little, an age and a ward that do not."""
    random, truth = np.random.default_rng(seed), plan.prepared.cohort.truth
    features = random.normal(size=(len(truth), len(FEATURE_NAMES)))
    features[:, 1] += 1.5 * truth[:, 0]
    scans = tuple(replace(scan, handcrafted=row) for scan, row in zip(plan.prepared.scans, features, strict=True))
    cases = tuple(
        replace(case, columns={"age": str(random.integers(30, 90)), "ward": str(random.choice(["east", "west"]))})
        for case in plan.prepared.cohort.cases
    )
    return with_cases(replace(plan, prepared=replace(plan.prepared, scans=scans)), cases)


def with_cases(plan: Plan, cases: tuple) -> Plan:
    cohort = Cohort(cases, plan.prepared.cohort.labels)
    return replace(plan, prepared=PreparedCohort(cohort, plan.prepared.scans))


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory) -> tuple[Plan, TrainedEnsemble]:
    """Networks that have learned labels without meaning."""
    plan = with_knowledge(small_plan(signal=0, n=N, n_test=20, members=2, random_labels=True))
    return plan, train(plan, CONFIG, source_of("random"), tmp_path_factory.mktemp("training"), silent)


def weight_of(fusion, part: str) -> float:
    """Largest weight of a part in the fused model, in standard deviations of its features."""
    whole = fusion.combinations[0]
    names = fusion.inputs.names(part)
    return float(np.abs([row[whole.features.index(name)] for row in whole.weight for name in names]).max())


def test_what_a_network_knows_by_heart_gets_little_weight(by_heart):
    plan, trained = by_heart
    assert trained.gap.training_sensitivity > 0.9
    assert trained.gap.validation_sensitivity < 0.65
    fusion = fuse_run(plan, CONFIG, trained)
    feature = fusion.combinations[0].features.index("diameter_mm")
    knows = abs(fusion.combinations[0].weight[0][feature])
    assert weight_of(fusion, "network") < 0.5 * knows

    seen = plan.prepared.subset(range(N)).without_margin((MARGIN,) * 3)  # the mistake: outputs for scans learned from
    order = [row for part in plan.split.validation for row in part]
    mistaken = replace(trained, validation=assess(trained.ensemble, seen)[0][order])
    assert weight_of(fuse_run(plan, CONFIG, mistaken), "network") > 2 * weight_of(fusion, "network")


def test_no_test_scan_is_looked_at(by_heart):
    plan, trained = by_heart
    fusion, test = fuse_run(plan, CONFIG, trained), set(plan.split.test)
    assert fusion.combinations[0].n_scans == N
    labels = plan.prepared.cohort.labels.names
    cases = tuple(
        replace(case, label=labels[0], columns={"age": "none of it", "ward": "elsewhere"}) if row in test else case
        for row, case in enumerate(plan.prepared.cohort.cases)
    )
    scans = tuple(
        replace(scan, handcrafted=scan.handcrafted * np.nan, tensor=scan.tensor * 0) if row in test else scan
        for row, scan in enumerate(plan.prepared.scans)
    )
    corrupted = with_cases(replace(plan, prepared=replace(plan.prepared, scans=scans)), cases)
    assert fuse_run(corrupted, CONFIG, trained) == fusion
    swapped = tuple(
        replace(case, columns=plan.prepared.cohort.cases[row - 1].columns) for row, case in enumerate(cases)
    )
    assert fuse_run(with_cases(plan, swapped), CONFIG, trained) != fusion  # of the others it is


def test_with_a_single_split_only_the_validation_scans_teach_the_fusion(by_heart):
    plan, trained = by_heart
    single = replace(
        plan, split=replace(plan.split, validation=(tuple(range(20)),), always_training=tuple(range(20, N)))
    )
    fusion = fuse_run(single, CONFIG, replace(trained, validation=trained.validation[:20]))
    assert {one.n_scans for one in fusion.combinations if "network" in one.parts} == {20}
    assert {one.n_scans for one in fusion.combinations if "network" not in one.parts} == {N}
    few = replace(single.split, validation=(tuple(range(6)),), always_training=tuple(range(6, N)))
    with pytest.raises(TooFewPatients, match="with a single split only the validation scans do"):
        check_fusion(plan.prepared.cohort, few, CONFIG)


def test_the_mean_learns_from_every_development_scan_and_from_no_output(by_heart):
    plan, trained = by_heart
    config = CONFIG.model_copy(update={"fusion": CONFIG.fusion.model_copy(update={"method": "mean"})})
    single = replace(plan, split=replace(plan.split, validation=(tuple(range(6)),), always_training=tuple(range(6, N))))
    check_fusion(plan.prepared.cohort, single.split, config)  # six validation scans are enough
    fusion = fuse_run(single, config, replace(trained, validation=trained.validation[:6]))
    assert {one.n_scans for one in fusion.combinations} == {N}
    assert fusion == fuse_run(plan, config, trained)


def test_columns_are_checked_before_training(by_heart, caplog):
    plan, _ = by_heart
    cohort = plan.prepared.cohort
    same = with_cases(plan, tuple(replace(case, columns={"age": "60", "ward": "east"}) for case in cohort.cases))
    with pytest.raises(CohortError, match="column 'age' has the same value in every development scan"):
        check_fusion(same.prepared.cohort, plan.split, CONFIG)
    none = with_cases(plan, tuple(replace(case, columns={"sex": "F"}) for case in cohort.cases))
    with pytest.raises(CohortError, match="has 'age', which the table does not; expected one of sex"):
        check_fusion(none.prepared.cohort, plan.split, CONFIG)
    told = tuple(replace(case, columns=dict(case.columns) | {"ward": str(case.label)}) for case in cohort.cases)
    check_fusion(with_cases(plan, told).prepared.cohort, plan.split, CONFIG, warn=True)
    assert "column ward tells the class of almost every development scan" in caplog.text
    assert caplog.text.count("column age") == 0
    check_fusion(none.prepared.cohort, plan.split, small_config())  # nothing is asked of it without a fusion
