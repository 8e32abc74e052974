"""The fusion is fitted on out-of-fold outputs only: never on scans a network trained on, never on a test scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_run_data import MARGIN, small_config, small_run_data, source_of

from med_transfer.cohorts import Cohort, PreparedCohort
from med_transfer.cohorts.handcrafted import FEATURE_NAMES
from med_transfer.errors import CohortError, TooFewPatients
from med_transfer.evaluation.evaluate import predict
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.fusing import check_fusion, fuse_run
from med_transfer.finetuning.decisions.validation_decisions import choose_prediction_sets
from med_transfer.finetuning.folds import TrainedEnsemble, train_folds
from med_transfer.finetuning.record import bundle_record
from med_transfer.metrics.records.metrics import KeptNetwork
from med_transfer.model.calibration.calibrators import Uncalibrated
from med_transfer.progress import silent

N = 32
FUSION = {"use": ["network", "handcrafted", "columns"], "columns": ["age", "ward"], "penalty": 0.1, "method": "stacked"}
LONG = {"epochs": 40, "epoch_scans": N, "dropout": 0, "label_smoothing": 0, "weight_decay": 0}
CONFIG = small_config(
    {"name": "scratch", "learning_rate": 0.02}, training=LONG | {"averaging": "swa"}, fusion=FUSION
)  # without early stopping


def with_knowledge(run_data: RunData, seed: int = 0) -> RunData:
    """One handcrafted feature that knows the class a little, an age and a ward that do not."""
    random, truth = np.random.default_rng(seed), run_data.prepared.cohort.truth
    features = random.normal(size=(len(truth), len(FEATURE_NAMES)))
    features[:, 1] += 1.5 * truth[:, 0]
    scans = tuple(replace(scan, handcrafted=row) for scan, row in zip(run_data.prepared.scans, features, strict=True))
    cases = tuple(
        replace(case, columns={"age": str(random.integers(30, 90)), "ward": str(random.choice(["east", "west"]))})
        for case in run_data.prepared.cohort.cases
    )
    return with_cases(replace(run_data, prepared=replace(run_data.prepared, scans=scans)), cases)


def with_cases(run_data: RunData, cases: tuple) -> RunData:
    cohort = Cohort(cases, run_data.prepared.cohort.labels)
    return replace(run_data, prepared=PreparedCohort(cohort, run_data.prepared.scans))


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory) -> tuple[RunData, TrainedEnsemble]:
    """Networks that have learned labels without meaning."""
    run_data = with_knowledge(small_run_data(signal=0, n=N, n_test=20, members=2, random_labels=True))
    return run_data, train_folds(run_data, CONFIG, source_of("random"), tmp_path_factory.mktemp("training"), silent)


def weight_of(fusion, part: str) -> float:
    """Largest weight of a part in the fused model, in standard deviations of its features."""
    whole = fusion.combinations[0]
    names = fusion.inputs.names(part)
    return float(np.abs([row[whole.features.index(name)] for row in whole.weight for name in names]).max())


def test_what_a_network_knows_by_heart_gets_little_weight(by_heart):
    run_data, trained = by_heart
    assert trained.gap.training_sensitivity > 0.9
    assert trained.gap.validation_sensitivity < 0.65
    fusion = fuse_run(run_data, CONFIG, trained)
    feature = fusion.combinations[0].features.index("diameter_mm")
    knows = abs(fusion.combinations[0].weight[0][feature])
    assert weight_of(fusion, "network") < 0.5 * knows

    seen = run_data.prepared.subset(range(N)).without_margin((MARGIN,) * 3)  # the mistake: outputs for training scans
    order = [row for part in run_data.split.validation for row in part]
    mistaken = replace(trained, validation=predict(trained.ensemble, seen)[0][order])
    assert weight_of(fuse_run(run_data, CONFIG, mistaken), "network") > 2 * weight_of(fusion, "network")


def test_a_bundle_records_what_was_fitted(by_heart):
    run_data, trained = by_heart
    fusion, kept = fuse_run(run_data, CONFIG, trained), KeptNetwork(network="transferred", rule="report", sentence="")
    record = bundle_record(run_data, CONFIG, source_of("random"), trained, kept, fusion)
    assert record.calibration == trained.ensemble.calibrator != Uncalibrated()
    assert (record.fusion, record.n_fold_models) == (fusion, 2)
    assert record.prediction_sets == choose_prediction_sets(run_data, CONFIG, trained)


def test_no_test_scan_is_looked_at(by_heart, caplog):
    run_data, trained = by_heart
    with caplog.at_level("INFO", "med_transfer"):
        fusion, test = fuse_run(run_data, CONFIG, trained), set(run_data.split.test)
    assert fusion.combinations[0].n_scans == N
    assert f"fitted on {N} scans of {N} patients, C {fusion.combinations[0].inverse_penalty:g}" in caplog.text
    labels = run_data.prepared.cohort.labels.names
    cases = tuple(
        replace(case, label=labels[0], columns={"age": "none of it", "ward": "elsewhere"}) if row in test else case
        for row, case in enumerate(run_data.prepared.cohort.cases)
    )
    scans = tuple(
        replace(scan, handcrafted=scan.handcrafted * np.nan, tensor=scan.tensor * 0) if row in test else scan
        for row, scan in enumerate(run_data.prepared.scans)
    )
    corrupted = with_cases(replace(run_data, prepared=replace(run_data.prepared, scans=scans)), cases)
    assert fuse_run(corrupted, CONFIG, trained) == fusion
    swapped = tuple(
        replace(case, columns=run_data.prepared.cohort.cases[row - 1].columns) for row, case in enumerate(cases)
    )
    assert fuse_run(with_cases(run_data, swapped), CONFIG, trained) != fusion  # of the others it is


def test_with_a_single_split_only_the_validation_scans_teach_the_fusion(by_heart):
    run_data, trained = by_heart
    single = replace(
        run_data, split=replace(run_data.split, validation=(tuple(range(20)),), always_training=tuple(range(20, N)))
    )
    fusion = fuse_run(single, CONFIG, replace(trained, validation=trained.validation[:20]))
    assert {one.n_scans for one in fusion.combinations if "network" in one.parts} == {20}
    assert {one.n_scans for one in fusion.combinations if "network" not in one.parts} == {N}
    few = replace(single.split, validation=(tuple(range(6)),), always_training=tuple(range(6, N)))
    with pytest.raises(TooFewPatients, match="^fusion: .*with a single split only the validation scans do"):
        check_fusion(run_data.prepared.cohort, few, CONFIG)


def test_the_mean_learns_from_every_development_scan_and_from_no_output(by_heart):
    run_data, trained = by_heart
    config = CONFIG.model_copy(update={"fusion": CONFIG.fusion.model_copy(update={"method": "mean"})})
    single = replace(
        run_data, split=replace(run_data.split, validation=(tuple(range(6)),), always_training=tuple(range(6, N)))
    )
    check_fusion(run_data.prepared.cohort, single.split, config)  # six validation scans are enough
    fusion = fuse_run(single, config, replace(trained, validation=trained.validation[:6]))
    assert {one.n_scans for one in fusion.combinations} == {N}
    assert fusion == fuse_run(run_data, config, trained)


def test_columns_are_checked_before_training(by_heart, caplog):
    run_data, _ = by_heart
    cohort = run_data.prepared.cohort
    same = with_cases(run_data, tuple(replace(case, columns={"age": "60", "ward": "east"}) for case in cohort.cases))
    with pytest.raises(CohortError, match="column 'age' has the same value in every development scan"):
        check_fusion(same.prepared.cohort, run_data.split, CONFIG)
    none = with_cases(run_data, tuple(replace(case, columns={"sex": "F"}) for case in cohort.cases))
    with pytest.raises(CohortError, match="^fusion: .*has 'age', which the table does not; expected one of sex"):
        check_fusion(none.prepared.cohort, run_data.split, CONFIG)
    told = tuple(replace(case, columns=dict(case.columns) | {"ward": str(case.label)}) for case in cohort.cases)
    check_fusion(with_cases(run_data, told).prepared.cohort, run_data.split, CONFIG, warn=True)
    assert "column ward gives away the class of almost every development scan" in caplog.text
    assert caplog.text.count("column age") == 0
    check_fusion(none.prepared.cohort, run_data.split, small_config())  # it is not needed without a fusion
