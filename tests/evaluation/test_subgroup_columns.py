"""Subgroups come from the table and from the scans' headers, without duplicates."""

import numpy as np
import pytest
from made_up_cohort import made_up_cohort

from med_transfer.errors import UsageError
from med_transfer.evaluation.subgroup_columns import check_subgroups, cohort_subgroups

RANDOM = np.random.default_rng(0)
SCANNERS = [str(name) for name in RANDOM.choice(["A-64", "B-128"], 60)]
COHORT = made_up_cohort(
    ["benign", "malignant"] * 30,
    columns={
        "sex": [str(sex) for sex in RANDOM.choice(["f", "m"], 60)],
        "age": [str(age) for age in RANDOM.integers(40, 80, 60)],
        "scanner": SCANNERS,
        "study_date": [str(20200100 + day) for day in RANDOM.integers(1, 29, 60)],
        "note": [f"seen by reader {n}" for n in range(60)],
        "stage": ["N/A"] * 60,
    },
    facts={
        "kernel": ["LUNG" if name == "A-64" else "B31f" for name in SCANNERS],
        "slice_thickness_mm": [float(mm) for mm in RANDOM.choice([1.25, 2.5, 5.0], 60)],
        "slice_spacing_mm": [2.5] * 60,
        "n_slices": [float(n) for n in RANDOM.integers(100, 400, 60)],
    },
)


def test_by_default_every_suitable_column_and_fact_is_taken_once():
    found = {grouping.column: grouping for grouping in cohort_subgroups(COHORT)}
    assert list(found) == ["age", "scanner", "sex", "slice_thickness_mm"]
    assert found["scanner"].same_as == ("kernel",)
    assert found["slice_thickness_mm"].order == ("1.25", "2.5", "5")


def test_columns_that_are_named_are_taken_whatever_they_hold():
    found = cohort_subgroups(COHORT, ("n_slices", "kernel", "stage", "study_date"))
    assert [grouping.column for grouping in found] == ["n_slices", "kernel", "stage", "study_date"]
    assert found[2].unsuitable == "no scan has a value"
    assert cohort_subgroups(COHORT, ()) == []


def test_a_column_of_the_table_goes_before_the_header():
    cohort = made_up_cohort(["a", "b"] * 15, {"kernel": ["x", "y", "z"] * 10}, {"kernel": ["q"] * 30})
    assert [grouping.order for grouping in cohort_subgroups(cohort)] == [("x", "y", "z")]


def test_none_is_a_subgroup_among_words_and_not_known_among_numbers():
    columns = {"contrast": ["none", "iv", "NA"] * 10, "age": ["None", "51", "63", "63"] * 7 + ["51"] * 2}
    found = {one.column: one for one in cohort_subgroups(made_up_cohort(["a", "b"] * 15, columns))}
    assert found["contrast"].order == ("iv", "none", "not known")
    assert found["age"].order == ("51", "63", "not known")


def test_a_column_that_does_not_exist_is_refused_with_the_nearest():
    check_subgroups(COHORT.cohort, ("sex", "kernel"))
    check_subgroups(COHORT.cohort, None)
    with pytest.raises(UsageError, match=r"subgroup column 'scaner' is not in the table.*Did you mean scanner\?"):
        check_subgroups(COHORT.cohort, ("sex", "scaner"))
