"""Small cohorts: no separate test patients, and folds that may be drawn repeatedly."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, pairwise

import pytest
from cohort_strategies import cohort_of, cohorts
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from med_transfer.cohorts import Cohort, CohortLock, SplitConfig, check_leakage, split_cohort
from med_transfer.errors import CohortError, PatientLeak

quick = settings(max_examples=12)
REPEATED = SplitConfig(folds=3, test_fraction=0, repeats=4)


def patients(n: int) -> Cohort:
    return cohort_of([(f"p{i:03d}", "abc"[i % 3]) for i in range(n)])


@pytest.mark.parametrize(
    ("n", "config", "cheap", "decided"),
    [
        (59, SplitConfig(), True, (0.0, 5)),
        (59, SplitConfig(), False, (0.0, 1)),
        (60, SplitConfig(), True, (0.2, 1)),
        (59, SplitConfig(kind="holdout"), True, (0.2, 1)),
        (59, SplitConfig(test_fraction=0.2), True, (0.2, 1)),
        (59, SplitConfig(test_fraction=0), True, (0.0, 1)),
        (59, SplitConfig(repeats=2), True, (0.0, 2)),
        (59, SplitConfig(repeats=1), True, (0.0, 1)),
        (60, SplitConfig(repeats=3), False, (0.0, 3)),
    ],
)
def test_the_table_decides_whether_patients_are_kept_apart(n, config, cheap, decided):
    resolved = config.resolved(patients(n), cheap=cheap)
    assert (resolved.test_fraction, resolved.repeats) == decided
    assert resolved.resolved(patients(500)) == resolved  # once decided, it does not depend on another table
    assert split_cohort(patients(n), resolved) == split_cohort(patients(n), resolved)
    assert bool(split_cohort(patients(n), config).test) == (decided[0] > 0)


def test_patients_are_counted_and_not_scans():
    scans = cohort_of([(f"p{i // 2:03d}", "abc"[i // 2 % 3]) for i in range(80)])
    assert SplitConfig().resolved(scans).test_fraction == 0


def test_a_table_with_a_split_column_keeps_its_own():
    table = cohort_of([(f"p{i}", "abc"[i % 3], "test" if i < 6 else "train") for i in range(40)])
    assert SplitConfig().resolved(table).test_fraction == 0.2
    assert split_cohort(table, SplitConfig()).test == tuple(range(6))
    with pytest.raises(CohortError, match=r"split.repeats 3, and the split column has test or val rows.*repeats=1"):
        split_cohort(table, SplitConfig(repeats=3))


@quick
@given(cohorts(), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_every_patient_validates_once_a_repeat_and_never_among_its_own_training(cohort, repeats, seed):
    config = SplitConfig(folds=2, test_fraction=0, repeats=repeats, seed=seed)
    split = split_cohort(cohort, config)
    assert len(split.repeats) == repeats
    assert split.n_fold_models == 2  # of the first repeat: these are kept
    for one in split.repeats:
        assert sorted(chain.from_iterable(one.validation)) == list(range(len(cohort)))
        for fold, validation in enumerate(one.validation):
            here, there = ({cohort.cases[i].patient for i in part} for part in (validation, one.training(fold)))
            assert not here & there
            assert cohort.truth[list(validation)].any(axis=0).all()
    assert split_cohort(cohort, config) == split
    assert replace(split, further=()) == split_cohort(cohort, config.model_copy(update={"repeats": 1}))


def test_every_repeat_divides_anew():
    split = split_cohort(patients(30), REPEATED)
    assert all(set(one.validation) != set(other.validation) for one, other in pairwise(split.repeats))


def test_copies_that_only_a_further_repeat_tears_apart_are_found():
    cohort = patients(30)
    split = split_cohort(cohort, REPEATED)
    fold_of = [{case: k for k, part in enumerate(one.validation) for case in part} for one in split.repeats]
    first, copy = next(
        (i, j) for i in range(30) for j in range(i) if fold_of[0][i] == fold_of[0][j] and fold_of[1][i] != fold_of[1][j]
    )
    hashes = [(f"h{i}",) for i in range(30)]
    hashes[copy] = hashes[first]
    check_leakage(cohort, hashes, replace(split, further=()))
    with pytest.raises(PatientLeak, match=r"identical images in validation \d of repeat 2 and in its training"):
        check_leakage(cohort, hashes, split)


def test_the_lock_holds_every_repeat_and_one_repeat_is_locked_as_before(tmp_path):
    cohort, once = patients(30), REPEATED.model_copy(update={"repeats": 1})
    lock = CohortLock.of(cohort, [()] * 30, split_cohort(cohort, REPEATED), REPEATED)
    lock.write(tmp_path / "lock.json")
    assert CohortLock.read(tmp_path / "lock.json") == lock
    assert lock.split.repeats == 4
    assert {len(case.further_roles) for case in lock.cases} == {3}
    plain = CohortLock.of(cohort, [()] * 30, split_cohort(cohort, once), once)
    plain.write(tmp_path / "plain.json")
    assert "repeats" not in (tmp_path / "plain.json").read_text()
    assert "further_roles" not in (tmp_path / "plain.json").read_text()
    assert CohortLock.read(tmp_path / "plain.json") == plain


@pytest.mark.parametrize("wrong", [{"test_fraction": 0.2}, {"kind": "holdout"}])
def test_only_cross_validation_can_be_repeated(wrong):
    with pytest.raises(ValidationError, match="only kfold with test_fraction 0 can be repeated"):
        SplitConfig(repeats=2, **wrong)
