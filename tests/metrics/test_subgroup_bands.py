"""Columns become subgroups: bands at round limits, values as they are, rare ones combined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from med_transfer.metrics.grouping import OTHER, SMALLEST_SUBGROUP, UNKNOWN, Grouping, group_column, is_private


def of_patients(texts):
    return [f"p{number}" for number in range(len(texts))]


def grouped(column, values):
    texts = [str(value) for value in values]
    return group_column(column, texts, of_patients(texts))


def test_ages_are_cut_into_decades_and_thin_bands_are_joined():
    grouping = grouped("age", [38] * 3 + [44] * 12 + [55] * 15 + [61] * 20 + [79] * 4 + [83] * 7)
    assert grouping.order == ("under 50", "50 to 59", "60 to 69", "70 or more")
    assert [grouping.of_scan.count(band) for band in grouping.order] == [15, 15, 20, 11]
    assert "decades" in grouping.how


def test_ten_patients_are_enough_for_a_band_or_a_value_and_nine_are_not():
    assert grouped("age", [44] * 10 + [55] * 10 + [66] * 10 + list(range(71, 81))).order[:2] == ("under 50", "50 to 59")
    assert grouped("age", [44] * 9 + [55] * 11 + [66] * 10 + list(range(71, 81))).order[0] == "under 60"
    assert grouped("kernel", ["A"] * 10 + ["B"] * 10 + ["C"] * 9 + ["D"] * 9).order == ("A", "B", OTHER)


def test_numbers_stay_a_scale_where_cells_are_empty_and_tell_nobody():
    grouping = grouped("age", [*range(40, 60)] * 2 + [""] * 3)
    assert grouping.order == ("under 50", "50 or more", UNKNOWN)
    assert [grouping.of_scan.count(band) for band in grouping.order] == [20, 20, 3]
    assert not grouped("site", range(1, 6)).identifies


def test_slice_thickness_is_cut_at_limits_of_clinical_use_which_belong_to_the_band_below():
    grouping = grouped("slice_thickness_mm", [1.0, 1.25, 1.5] * 5 + [2, 2.5] * 6 + [3, 5] * 8 + [7.5] * 11)
    assert grouping.order == ("up to 1.5 mm", "over 1.5 to 2.5 mm", "over 2.5 to 5 mm", "over 5 mm")
    assert [grouping.of_scan.count(band) for band in grouping.order] == [15, 12, 16, 11]


def test_other_numbers_are_cut_at_round_numbers_near_their_terciles():
    values = np.random.default_rng(0).normal(137, 21, 300).round(2)
    grouping = grouped("tube_current_ma", values)
    assert grouping.order == ("under 130", "130 to under 150", "150 or more")
    assert grouping.order[0] == grouping.of_scan[int(values.argmin())]
    assert min(grouping.of_scan.count(band) for band in grouping.order) > 60


def test_few_different_numbers_are_codes():
    grouping = grouped("site", ["10", "2.0", "2", "1"] * 12)
    assert grouping.order == ("1", "2", "10")
    assert grouping.of_scan.count("2") == 24
    assert grouped("site", ["10000001", "10000002"] * 24).order == ("10000001", "10000002")
    assert grouped("room", ["10_01", "100_1"] * 24).order == ("100_1", "10_01")


def test_rare_values_are_pooled_and_cells_without_a_value_stand_apart():
    grouping = grouped("kernel", ["B31f"] * 20 + ["LUNG"] * 14 + ["FC08"] * 3 + ["B60f"] * 2 + [""] * 4)
    assert grouping.order == ("B31f", "LUNG", OTHER, UNKNOWN)
    assert [grouping.of_scan.count(name) for name in grouping.order] == [20, 14, 5, 4]
    assert grouping.how == "by value; 2 values of few patients are pooled as 'other'"


def test_one_rare_value_and_nothing_but_rare_ones_stay_as_they_are():
    for texts in (["A"] * 20 + ["B"] * 14 + ["C"] * 3, ["A"] * 9 + ["B"] * 9 + ["C"] * 9):
        grouping = grouped("kernel", texts)
        assert grouping.of_scan == tuple(texts)
        assert (grouping.order, grouping.how) == (("A", "B", "C"), "by value")


def test_values_count_patients_and_not_scans():
    texts = ["A"] * 30 + ["B"] * 30 + ["C"] * 30
    patients = [f"a{i}" for i in range(30)] + ["b", "c"] * 30
    assert group_column("scanner", texts, patients).order == ("A", OTHER)


def test_too_few_patients_for_bands_leave_two_halves():
    grouping = grouped("age", range(41, 53))
    assert grouping.order == ("under 46", "46 or more")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["CT"] * 30, "every scan has the same value"),
        (["CT"] * 20 + [""] * 10, "every scan that has a value has the same"),
        ([""] * 30, "no scan has a value"),
        ([f"reader {n // 2}" for n in range(30)], "15 different values, almost all of few patients"),
        ([f"comment {n}" for n in range(30)], "30 of its values are of one patient each: they identify people"),
        (["Anna", "Ben", "Eva", "", "Kim"], "4 of its values are of one patient each: they identify people"),
    ],
)
def test_a_column_that_does_not_divide_says_why(values, reason):
    grouping = grouped("column", values)
    assert (grouping.unsuitable, grouping.order) == (reason, ())


def test_a_column_that_identifies_people_keeps_none_of_their_names():
    grouping = grouped("nick", [*(f"name {n}" for n in range(20)), *["nobody"] * 4])
    assert "20 of its values" in grouping.unsuitable
    assert set(grouping.of_scan) == {""}


def test_few_patients_of_few_kinds_are_not_identified():
    assert grouped("sex", ["f", "m"]).unsuitable == ""
    assert grouped("site", ["a", "a", "a", "b", "b", "c", "d", "a"]).unsuitable == ""
    assert grouped("scanner", ["A", "B", "C", "D", "E", "E"]).unsuitable == ""
    assert grouped("stage", [1, 2, 3]).unsuitable == ""  # numbers are steps or codes


IDENTIFIERS = ["patient_id", "StudyDate", "series uid", "Accession", "birth_year", "name", "PatientName", "patientname"]
IDENTIFIERS += ["last_name", "Surname", "e-mail", "姓名", "病歷號", "檢查日期"]


@pytest.mark.parametrize("column", IDENTIFIERS)
def test_names_of_identifiers_and_dates_are_known(column):
    assert is_private(column)


@pytest.mark.parametrize("column", ["age", "sex", "median_dose", "validated", "grid", "scanner_name", "site name"])
def test_names_of_other_columns_are_let_through(column):
    assert not is_private(column)


def test_partition_is_the_same_under_other_names():
    assert Grouping.of("a", ["x", "y", "x"]).partition == Grouping.of("b", ["2", "1", "2"]).partition
    assert Grouping.of("a", ["x", "y", "x"]).partition != Grouping.of("b", ["2", "2", "1"]).partition


@given(
    numbers=st.lists(st.floats(-1e4, 1e4, allow_nan=False), min_size=2, max_size=120),
    column=st.sampled_from(["age", "slice_thickness_mm", "weight"]),
)
def test_bands_follow_the_order_of_the_numbers_and_leave_no_scan_out(numbers, column):
    grouping = grouped(column, numbers)
    if grouping.unsuitable:
        assert len({str(number) for number in numbers}) < 2
        return
    assert len(grouping.of_scan) == len(numbers)
    assert set(grouping.of_scan) == set(grouping.order)
    if OTHER in grouping.order or len(set(numbers)) <= 5:
        return
    bands = [grouping.order.index(name) for name in grouping.of_scan]
    order = np.argsort(numbers, kind="stable")
    assert (np.diff(np.array(bands)[order]) >= 0).all()
    if len(numbers) >= 60 and len(grouping.order) > 2:
        assert min(grouping.of_scan.count(band) for band in grouping.order) >= SMALLEST_SUBGROUP


def test_limits_of_many_digits_are_told_apart():
    assert grouped("product", range(1_000_000, 1_000_040)).order == (
        "under 1000010",
        "1000010 to under 1000025",
        "1000025 or more",
    )
