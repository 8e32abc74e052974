from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from cohort_strategies import NAMES, cohort_of, cohorts
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_cohort import made_up_cohort
from pydantic import ValidationError

from med_transfer.cohorts import Cohort, Split, SplitConfig, check_leakage, split_cohort
from med_transfer.errors import CohortError, PatientLeak, TooFewPatients
from med_transfer.predictions.labels import Labels

quick = settings(max_examples=12)
configs = st.builds(
    SplitConfig,
    kind=st.sampled_from(["kfold", "holdout"]),
    folds=st.integers(2, 4),
    test_fraction=st.sampled_from([0.0, 0.2, 0.3]),
    seed=st.integers(0, 2**32 - 1),
)


def patients_of(cohort, cases):
    return {cohort.cases[case].patient for case in cases}


def role_of_scan(cohort, split):
    roles = {cohort.cases[case].scan: "test" for case in split.test}
    for fold, validation in enumerate(split.validation):
        roles |= {cohort.cases[case].scan: fold for case in validation}
    return roles | {cohort.cases[case].scan: "train" for case in split.always_training}


@quick
@given(cohorts(), configs)
def test_no_patient_is_on_two_sides(cohort, config):
    split = split_cohort(cohort, config)
    assert not patients_of(cohort, split.test) & patients_of(cohort, split.development)
    for fold, validation in enumerate(split.validation):
        assert not patients_of(cohort, validation) & patients_of(cohort, split.training(fold))
        assert sorted((*validation, *split.training(fold))) == list(split.development)
    assert sorted((*split.test, *split.development)) == list(range(len(cohort)))
    check_leakage(cohort, [(case.patient,) for case in cohort.cases], split)


@quick
@given(cohorts(), configs)
def test_every_part_holds_every_class(cohort, config):
    split = split_cohort(cohort, config)
    assert bool(split.test) == (config.test_fraction > 0)
    assert split.n_fold_models == (config.folds if config.kind == "kfold" else 1)
    for part in (split.test or split.development, *split.validation, *map(split.training, range(split.n_fold_models))):
        assert cohort.truth[list(part)].any(axis=0).all()


@quick
@given(cohorts(), configs)
def test_kfold_validates_every_development_case_once(cohort, config):
    split = split_cohort(cohort, config.model_copy(update={"kind": "kfold"}))
    assert sorted(chain.from_iterable(split.validation)) == list(split.development)


@quick
@given(cohorts(), configs, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(cohort, config, random):
    order = list(range(len(cohort)))
    random.shuffle(order)
    shuffled = cohort.subset(order)
    assert role_of_scan(cohort, split_cohort(cohort, config)) == role_of_scan(shuffled, split_cohort(shuffled, config))


@quick
@given(cohorts(least_patients=12))
def test_classes_are_as_frequent_in_every_part(cohort):
    split = split_cohort(cohort, SplitConfig(folds=3, test_fraction=0.2))
    overall = cohort.truth.mean(axis=0)
    for part in (split.test, *split.validation):
        assert np.abs(cohort.truth[list(part)].mean(axis=0) - overall).max() < 0.25


def test_proportions_with_one_scan_a_patient():
    cohort = cohort_of([(str(n), "a" if n % 10 == 0 else "b") for n in range(200)], Labels(("a", "b")))
    split = split_cohort(cohort, SplitConfig(test_fraction=0.2))
    assert [len(part) for part in (split.test, *split.validation)] == [40, 32, 32, 32, 32, 32]
    counts = [cohort.subset(part).counts()["a"][0] for part in (split.test, *split.validation)]
    assert counts[0] == 4
    assert sorted(counts[1:]) == [3, 3, 3, 3, 4]


def test_seeds_differ_and_repeat():
    cohort = cohort_of([(str(n), NAMES[n % 3]) for n in range(90)])
    splits = [split_cohort(cohort, SplitConfig(seed=seed, test_fraction=0.2)) for seed in (0, 1, 0)]
    assert splits[0].test != splits[1].test
    assert splits[0].validation != splits[1].validation
    assert splits[0] == splits[2]


def test_findings_are_stratified_by_the_rarest():
    rng = np.random.default_rng(0)
    rows = [
        (str(n), frozenset(name for name, p in zip("abc", (0.1, 0.5, 0.9), strict=True) if rng.random() < p))
        for n in range(120)
    ]
    cohort = cohort_of(rows, Labels(NAMES, multilabel=True))
    split = split_cohort(cohort, SplitConfig(folds=3, test_fraction=0.2))
    for part in (split.test, *split.validation):
        truth = cohort.truth[list(part)]
        assert truth.any(axis=0).all()
        assert not truth.all(axis=0).any()
    rare = [cohort.truth[list(part), 0].sum() for part in split.validation]
    assert max(rare) - min(rare) <= 1


def test_one_patient_with_every_class_is_enough_of_each():
    cohort = cohort_of([(str(n // 3), NAMES[n % 3]) for n in range(18)])
    split = split_cohort(cohort, SplitConfig(folds=5, test_fraction=0.2))
    assert [len(part) for part in (split.test, *split.validation)] == [3] * 6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            SplitConfig(test_fraction=0.2),
            r"at least 6, one each for 5 folds and the test set\. Keep no .*\(split.test_fraction=0, split.folds=2\)",
        ),
        (
            SplitConfig(test_fraction=0, folds=3),
            r"at least 3, one each for 3 folds\. Use fewer folds \(split.folds=2\)",
        ),
        (
            SplitConfig(kind="holdout", test_fraction=0.2),
            r"at least 3, one each for training and validation and the test set\. Keep .*\(split.test_fraction=0\), or",
        ),
    ],
)
def test_too_few_patients(config, message):
    rows = [(str(n), "ab"[n % 2]) for n in range(40)] + [("x", "c"), ("x", "c"), ("x", "c"), ("y", "c")]
    with pytest.raises(TooFewPatients, match=f"class 'c' has 2 patients; expected {message}"):
        split_cohort(cohort_of(rows), config)


def test_too_few_patients_without_a_finding():
    rows = [(str(n), frozenset("a" if n else "")) for n in range(40)]
    with pytest.raises(TooFewPatients, match="class 'no a' has 1 patient;"):
        split_cohort(cohort_of(rows, Labels(("a",), multilabel=True)), SplitConfig(test_fraction=0.2))


def with_column(words):
    return cohort_of([(str(n), "ab"[n % 2], word) for n, word in enumerate(words)], Labels(("a", "b")))


def test_split_column_is_used_as_it_is():
    split = split_cohort(with_column(["test"] * 2 + ["val"] * 4 + ["train"] * 6), SplitConfig(test_fraction=0.2))
    assert split == Split((0, 1), ((2, 3, 4, 5),), (6, 7, 8, 9, 10, 11))
    assert split.training(0) == (6, 7, 8, 9, 10, 11)


def test_split_column_without_val_is_divided_into_folds():
    split = split_cohort(with_column(["test"] * 4 + ["train"] * 20), SplitConfig(folds=5, test_fraction=0.2))
    assert split.test == (0, 1, 2, 3)
    assert [len(fold) for fold in split.validation] == [4] * 5


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            ["train", "", "test", ""],
            CohortError,
            r"row 3 \(s1\.nii\.gz\) has no split \(2 rows in all\); expected train",
        ),
        (["val", "val", "test", "test"], CohortError, "no train row"),
        (["train", "train", "val", "val"], CohortError, "no test row.*split.test_fraction=0"),
        (["test", "train", "val", "train"], TooFewPatients, "class 'b', with 2 patients, is missing from validation 0"),
    ],
)
def test_unusable_split_columns(words, error, message):
    cohort = replace(with_column(words), path=Path("cohort.csv"))
    with pytest.raises(error, match=rf"^cohort\.csv: .*{message}"):
        split_cohort(cohort, SplitConfig(test_fraction=0.2))


def test_split_column_that_divides_a_patient():
    rows = [("Jane Doe", "a", "train"), ("Jane Doe", "a", "test"), ("p", "b", "train"), ("q", "b", "test")]
    with pytest.raises(
        PatientLeak, match=r"one patient in the test set and in development: row 3 .* with row 2 "
    ) as raised:
        split_cohort(cohort_of([*rows, ("r", "a", "val"), ("s", "b", "val")]), SplitConfig(test_fraction=0.2))
    assert "Jane" not in str(raised.value)


def test_identical_images_on_two_sides_are_found():
    cohort = cohort_of([(str(n), NAMES[n % 3]) for n in range(90)])
    split = split_cohort(cohort, SplitConfig(folds=3, test_fraction=0.2))
    hashes = [(str(n),) for n in range(90)]
    hashes[split.validation[0][0]] = hashes[split.validation[1][0]]
    with pytest.raises(
        PatientLeak, match=r"identical images in validation 0 and in its training: row \d+ \(s\d+\.nii\.gz\) with row"
    ):
        check_leakage(cohort, hashes, split)
    hashes[split.validation[0][0]] = hashes[split.test[0]]
    with pytest.raises(PatientLeak, match="identical images in the test set and in development"):
        check_leakage(cohort, hashes, split)


def test_identical_images_on_one_side_and_unreadable_scans_are_let_through():
    cohort = cohort_of([(str(n), NAMES[n % 3]) for n in range(90)])
    split = split_cohort(cohort, SplitConfig(kind="holdout", test_fraction=0.2))
    hashes = [(str(n),) for n in range(90)]
    hashes[split.test[0]] = hashes[split.test[1]]
    check_leakage(cohort, hashes, split)
    check_leakage(cohort, [()] * 90, split)


@pytest.mark.parametrize(
    "wrong", [{"folds": 1}, {"test_fraction": 0.9}, {"val_fraction": 0}, {"seed": -1}, {"fold": 3}]
)
def test_config_refuses(wrong):
    with pytest.raises(ValidationError):
        SplitConfig(**wrong)


def test_tiny_test_fraction_still_gives_every_class():
    cohort = cohort_of([(str(n), NAMES[n % 3]) for n in range(30)])
    with pytest.raises(TooFewPatients, match="is missing from the test set"):
        split_cohort(cohort, SplitConfig(test_fraction=0.02, folds=3))


@pytest.mark.real_data
@pytest.mark.parametrize("label", ["texture", "malignancy"])
def test_lung_nodules(nodule_cohort, label):
    cohort: Cohort = nodule_cohort(label)
    split = split_cohort(cohort, SplitConfig(test_fraction=0.2))
    check_leakage(cohort, [()] * len(cohort), split)
    overall = cohort.truth.mean(axis=0)
    for part in (split.test, *split.validation):
        assert np.abs(cohort.truth[list(part)].mean(axis=0) - overall).max() < 0.07


# Patients that steer a training whose validation patients are evaluated


@quick
@given(st.integers(2, 5), st.integers(4, 12), st.integers(0, 5), st.integers(1, 3))
def test_out_of_fold_training_is_steered_by_training_patients_of_every_class(folds, per_class, seed, repeats):
    cohort = made_up_cohort([*"abc"] * max(per_class, folds)).cohort
    split = split_cohort(cohort, SplitConfig(folds=folds, test_fraction=0, repeats=repeats, seed=seed))
    for divided in split.repeats:
        for fold in range(folds):
            steering, training = set(divided.steering_of(fold)), set(divided.training(fold))
            assert steering < training
            assert not steering & set(divided.validation[fold])
            patients = [{cohort.cases[i].patient for i in part} for part in (steering, training - steering)]
            assert not patients[0] & patients[1]
            assert {cohort.cases[i].label for i in steering} == set("abc")
            assert {cohort.cases[i].label for i in training - steering} == set("abc")


def test_test_patients_kept_apart_leave_the_steering_to_the_validation_patients():
    split = split_cohort(made_up_cohort([*"ab"] * 20).cohort, SplitConfig(test_fraction=0.25))
    assert split.steering == ()
    assert [split.steering_of(fold) for fold in range(5)] == [()] * 5


def test_a_class_without_a_patient_to_spare_is_refused_only_when_steering_is_asked_for():
    split = split_cohort(made_up_cohort([*"aaaabb"]).cohort, SplitConfig(folds=2, test_fraction=0))
    with pytest.raises(TooFewPatients, match="^split: .*one patient outside validation 0, which is evaluated"):
        split.steering_of(0)
