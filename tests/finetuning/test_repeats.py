"""The same patients in other folds: the mean output of networks that did not see a patient."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from small_run_data import small_config, small_run_data, source_of

from med_transfer.cohorts import ArrayCache, Split
from med_transfer.errors import UsageError
from med_transfer.finetuning.data_setup import RunData
from med_transfer.finetuning.decisions.validation_decisions import cross_fitted_calls
from med_transfer.finetuning.folds import Folds, TrainedEnsemble, train_fold, train_folds
from med_transfer.finetuning.on_cluster import folds_of_run
from med_transfer.finetuning.repeats import measure_repeats, repeat_file, with_repeats
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.measures import macro_auc
from med_transfer.predictions.by_repeat import read_by_repeat
from med_transfer.progress import silent

SCANS, FOLDS, REPEATS = 36, 3, 4


def repeated_plan(seed: int = 0) -> RunData:
    run_data = small_run_data(signal=0.12, n=SCANS, n_test=0, members=FOLDS, seed=seed)
    random, divided = np.random.default_rng(seed), []
    for _ in range(REPEATS):
        order = np.concatenate([random.permutation(np.arange(kind, SCANS, 2)) for kind in (0, 1)])
        divided.append(Split((), tuple(tuple(sorted(order[fold::FOLDS].tolist())) for fold in range(FOLDS))))
    return replace(run_data, split=replace(divided[0], further=tuple(divided[1:])))


PLAN, CONFIG = repeated_plan(), small_config("linear_probe", operating_point={"rule": "youden"})


def trained_in(folder, plan: RunData = PLAN, calls: list[int] | None = None) -> TrainedEnsemble:
    def again(data: RunData, repeat: int) -> TrainedEnsemble:
        if calls is not None:
            calls.append(repeat)
        return train_folds(data, CONFIG, source_of("sees"), folder, silent, repeat=repeat)

    first = train_folds(plan, CONFIG, source_of("sees"), folder, silent)
    return with_repeats(first, plan, again, folder)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory) -> tuple[TrainedEnsemble, object]:
    folder = tmp_path_factory.mktemp("training")
    return trained_in(folder), folder


def test_each_scan_keeps_what_the_networks_without_it_said(repeated, tmp_path):
    trained, _ = repeated
    assert trained.ensemble.n_fold_models == FOLDS
    np.testing.assert_array_equal(trained.validation, np.mean(trained.repeats, axis=0))
    first = list(chain.from_iterable(PLAN.split.validation))
    for number, split in enumerate(PLAN.split.further, start=2):
        alone = replace(PLAN, split=replace(split, further=()))
        said = train_folds(alone, CONFIG, source_of("sees"), tmp_path / str(number), silent, repeat=number).validation
        by_case = dict(zip(chain.from_iterable(split.validation), said, strict=True))
        np.testing.assert_allclose(trained.repeats[number - 1], [by_case[case] for case in first], atol=1e-12)


def test_what_a_kill_has_left_of_a_finished_repeat_is_taken_away(repeated, tmp_path):
    trained, folder = repeated
    again = shutil.copytree(folder, tmp_path / "again")
    (again / "repeat-2-fold-1").mkdir()
    np.testing.assert_array_equal(trained_in(again, calls=(calls := [])).validation, trained.validation)
    assert calls == []
    assert not list(again.glob("repeat-*-fold-*"))


def test_the_first_repeat_is_what_one_repeat_alone_gives(repeated, tmp_path):
    trained, _ = repeated
    once = trained_in(tmp_path, replace(PLAN, split=replace(PLAN.split, further=())))
    np.testing.assert_array_equal(once.validation, trained.of_repeat(0).validation)
    assert once.repeats == ()
    (tmp_path / "repeats.csv").write_text("of an earlier decision")
    assert measure_repeats(PLAN, CONFIG, once, tmp_path / "repeats.csv") is None
    assert not (tmp_path / "repeats.csv").exists()


def test_a_repeat_that_is_done_is_not_done_again_and_leaves_no_networks(repeated, tmp_path):
    trained, folder = repeated
    assert sorted(path.name for path in folder.iterdir() if "fold" in path.name) == ["fold-0", "fold-1", "fold-2"]
    shutil.copytree(folder, tmp_path / "killed")
    (tmp_path / "killed" / "repeat-4.safetensors").unlink()
    calls: list[int] = []
    again = trained_in(tmp_path / "killed", calls=calls)
    assert calls == [4]
    np.testing.assert_array_equal(again.repeats, trained.repeats)


def test_a_repeat_that_is_done_is_of_the_same_scans_when_the_table_is_in_another_order(repeated, tmp_path):
    trained, folder = repeated
    shutil.copytree(folder, tmp_path / "killed")

    def moved(split: Split) -> Split:
        parts = (tuple(sorted(SCANS - 1 - case for case in part)) for part in split.validation)
        return replace(split, validation=tuple(parts), further=tuple(map(moved, split.further)))

    backwards = replace(PLAN, prepared=PLAN.prepared.subset(range(SCANS)[::-1]), split=moved(PLAN.split))
    calls: list[int] = []
    again = trained_in(tmp_path / "killed", backwards, calls)
    assert calls == []
    place = [backwards.split.validated.index(SCANS - 1 - case) for case in PLAN.split.validated]
    np.testing.assert_allclose([said[place] for said in again.repeats], trained.repeats, atol=1e-6)
    np.testing.assert_allclose(again.validation_novelty[place], trained.validation_novelty, atol=1e-6)


def test_each_repeat_is_measured_by_itself(repeated, tmp_path):
    trained, _ = repeated
    truth = PLAN.prepared.cohort.truth[list(PLAN.split.evaluated)]
    measured = measure_repeats(PLAN, CONFIG, trained, tmp_path / "repeats.csv")
    assert measured is not None
    assert measured.n == REPEATS
    assert measured.macro_auc == pytest.approx([roc_auc_score(truth[:, 1], said[:, 1]) for said in trained.repeats])
    assert len(set(measured.macro_auc)) > 1
    assert all(value is not None and 0 <= value <= 1 for value in measured.balanced_accuracy)


def test_the_table_beside_tells_what_each_repeat_said(repeated, tmp_path):
    trained, _ = repeated
    measured = measure_repeats(PLAN, CONFIG, trained, tmp_path / "repeats.csv")
    rows = read_by_repeat(tmp_path / "repeats.csv", ("with", "without"))
    assert measured is not None
    assert len(rows) == SCANS * REPEATS
    for number, split in enumerate(PLAN.split.repeats, start=1):
        of_repeat = {int(row.scan): row for row in rows if row.repeat == number}
        assert len(of_repeat) == SCANS
        assert all(of_repeat[case].fold == fold for fold, part in enumerate(split.validation) for case in part)
        called = [of_repeat[case].predicted == "with" for case in range(SCANS)]
        truth = [case.label == "with" for case in PLAN.prepared.cohort.cases]
        assert balanced_accuracy_score(truth, called) == pytest.approx(measured.balanced_accuracy[number - 1])
    mean = {
        case: np.mean([row.probabilities for row in rows if int(row.scan) == case], axis=0) for case in range(SCANS)
    }
    np.testing.assert_allclose([mean[case] for case in PLAN.split.evaluated], trained.validation, atol=1e-12)
    with pytest.raises(
        UsageError, match=r"repeats\.csv: cannot be read as the repeats of this run; expected scan, series_uid"
    ):
        read_by_repeat(tmp_path / "repeats.csv", ("a", "b"))


def test_each_repeat_is_called_as_its_own_networks_find_it(repeated, tmp_path):
    """By the default rule, which has no threshold but what the calibration holds for no evidence."""
    trained, _ = repeated
    config = small_config("linear_probe")
    measure_repeats(PLAN, config, trained, tmp_path / "repeats.csv")
    rows = read_by_repeat(tmp_path / "repeats.csv", ("with", "without"))
    for number, split in enumerate(PLAN.split.repeats, start=1):
        alone = replace(PLAN, split=replace(split, further=()))
        own = train_folds(alone, config, source_of("sees"), tmp_path / str(number), silent, repeat=number)
        calls = cross_fitted_calls(alone, config, own)
        called = {case: "with" if call[0] else "without" for case, call in zip(split.validated, calls, strict=True)}
        assert {int(row.scan): row.predicted for row in rows if row.repeat == number} == called


def test_repeats_do_not_count_as_more_patients():
    """Nothing new is known of anyone: the interval stays about as wide, where as many patients would halve it."""
    random, truth = np.random.default_rng(0), np.arange(52) % 2 == 0
    table, patients = np.stack([~truth, truth], axis=1), [f"p{i}" for i in range(52)]
    ratios = []
    for _ in range(20):
        latent = truth + random.normal(size=52)
        repeats = 1 / (1 + np.exp(-(latent + 0.4 * random.normal(size=(5, 52)))))

        def width(p):
            labels = PLAN.prepared.cohort.labels
            interval = macro_auc(LabelledPredictions.of(table, np.stack([1 - p, p], 1), patients, labels)).ci95
            assert interval is not None
            return interval[1] - interval[0]

        ratios.append(width(repeats.mean(axis=0)) / width(repeats[0]))
    assert np.mean(ratios) > 0.9
    assert min(ratios) > 0.75


def test_a_repeat_of_an_earlier_version_is_called_as_the_first_one(repeated, tmp_path):
    """Its file does not tell what its calibration held for no evidence."""
    trained, folder = repeated
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    entry = ArrayCache(tmp_path).read("repeat-2")
    assert entry is not None
    earlier = {name: array for name, array in entry.arrays.items() if name != "without_evidence"}
    ArrayCache(tmp_path).write("repeat-2", earlier, entry.record)
    again = trained_in(tmp_path)
    np.testing.assert_array_equal(again.validation, trained.validation)
    np.testing.assert_array_equal(again.without_evidence[1], trained.without_evidence[0])
    np.testing.assert_array_equal(again.without_evidence[2:], trained.without_evidence[2:])


def test_a_damaged_file_of_a_repeat_is_named(repeated, tmp_path):
    first, folder = repeated
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = repeat_file(tmp_path, 2)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UsageError, match="repeat-2.safetensors: is damaged; .* Remove it, and the same command"):
        with_repeats(first, PLAN, lambda data, repeat: pytest.fail("nothing is trained"), tmp_path)


@pytest.mark.parametrize("strategy", ["lp_ft", "linear_probe"])
def test_a_fold_is_the_same_whichever_came_before_it(tmp_path, strategy):
    plan = small_run_data(0.12, 15, 0, members=3)  # 10 and 5 scans in batches of 3: one is alone in the last
    config = small_config(strategy, training={"epochs": 1, "batch_size": 3}).resolved(from_source=True)

    def trained_after(*before: int) -> list[dict[str, float]]:
        after = tmp_path / f"after-{len(before)}"  # features of a frozen network are kept there for the next fold
        folds = Folds.of(plan, config, source_of("sees"), after)
        models = [train_fold(folds, number, Callback()) for number in (*before, 2)]
        return models[-1].history

    assert trained_after() == trained_after(0) == trained_after(1, 0)


def test_on_a_cluster_a_repeat_that_is_finished_is_not_trained_again_but_the_first_always_has_its_folds(tmp_path):
    first, second = small_run_data(0.12, 15, 0, members=3), small_run_data(0.12, 15, 0, members=2)
    run_data = replace(first, split=replace(first.split, further=(second.split,)))
    asked = run_data, small_config("full"), source_of("sees"), tmp_path
    assert [len(folds.folders) for folds in folds_of_run(*asked)] == [3, 2]
    for repeat in (1, 2):
        repeat_file(tmp_path, repeat).parent.mkdir(parents=True, exist_ok=True)
        repeat_file(tmp_path, repeat).touch()
    assert [len(folds.folders) for folds in folds_of_run(*asked)] == [3]
