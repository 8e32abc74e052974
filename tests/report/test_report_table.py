import io
import re

import pandas as pd
import pytest

from med_transfer.errors.numbers import with_minus_sign
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.page import ENGLISH
from med_transfer.report.table import Cell, Table, estimated, with_share
from med_transfer.report.writing import report_translator

KNOWN = Estimate(value=5 / 6, ci95=(0.66, 0.93), method="Wilson")
UNDEFINED = Estimate(value=None, ci95=None, method="Wilson", reason="no scan of class b")
BY_PATIENT = KNOWN.model_copy(update={"ci95_cluster": (0.6, 0.95)})


def read(table):
    return pd.read_csv(io.StringIO(table.csv()), index_col=0)


def test_the_csv_has_every_estimate_unrounded_with_its_limits():
    rows = [("a", estimated(KNOWN, "percent", ENGLISH)), ("b", estimated(UNDEFINED, "percent", ENGLISH))]
    values = read(Table("rates", "", ("Class", "Sensitivity"), rows))
    assert values.loc["a", "Sensitivity"] == 5 / 6
    assert values.loc["a", "Sensitivity, 95 % CI, low"] == 0.66
    assert values.loc["b"].isna().all()  # undefined is empty, never 0


def test_an_interval_over_patients_has_columns_of_its_own():
    rows = [("a", estimated(BY_PATIENT, "percent", ENGLISH)), ("b", estimated(KNOWN, "percent", ENGLISH))]
    high = read(Table("rates", "", ("Class", "Sensitivity"), rows))["Sensitivity, 95 % CI over patients, high"]
    assert high["a"] == 0.95
    assert pd.isna(high["b"])


def test_the_columns_of_the_limits_are_named_in_the_language_of_the_page():
    """They were called "95 % 信賴區間, low"."""
    rows = [("a", estimated(BY_PATIENT, "percent", report_translator("zh-TW")))]
    assert not re.search("low|high", Table("rates", "", ("類別", "靈敏度"), rows).csv())


@pytest.mark.parametrize(
    ("kind", "text", "interval"),
    [
        ("percent", "83.3 %", "66.0 to 93.0"),
        ("decimal", "0.833", "0.660 to 0.930"),
        ("signed", "+0.833", "+0.660 to +0.930"),
    ],
)
def test_a_cell_shows_the_value_and_its_interval(kind, text, interval):
    cell = estimated(KNOWN, kind, ENGLISH)
    assert (cell.text, cell.notes) == (text, (interval,))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "100.0 %"),
        (2999 / 3000, "99.9 %"),
        (0.999, "99.9 %"),
        (1 / 3000, "0.1 %"),
        (0, "0.0 %"),
        (1 - 1e-12, "100.0 %"),
    ],
)
def test_one_wrong_call_of_thousands_is_not_rounded_away(value, text):
    assert estimated(KNOWN.model_copy(update={"value": value}), "percent", ENGLISH).text == text


def test_a_share_that_is_nearly_all_or_nothing_is_not_written_as_such():
    assert with_share(1, 300, ENGLISH).notes == ("0.3 %",)
    assert with_share(299, 300, ENGLISH).notes == ("99.7 %",)
    assert with_share(300, 300, ENGLISH).notes == ("100 %",)
    assert with_share(1, 200, ENGLISH).notes == ("0.5 %",)


def test_an_undefined_cell_says_why():
    cell = estimated(UNDEFINED, "percent", ENGLISH)
    assert cell.undefined
    assert cell.notes == ("no scan of class b",)


def test_a_share_of_nothing_is_undefined():
    assert with_share(3, 4, ENGLISH).share == 0.75
    assert with_share(0, 0, ENGLISH).share is None
    assert with_share(0, 0, ENGLISH).notes == ("–",)


def test_plain_cells_are_their_own_value():
    table = Table("plain", "", ("Name", "n"), [("x, y", 3), ("z", Cell("4", values={"": 4}))])
    assert read(table)["n"].to_dict() == {"x, y": 3, "z": 4}


def test_numbers_below_nothing_have_one_minus_sign():
    below = Estimate(value=-0.1234, ci95=(-0.25, 0.1), method="")
    for shown in (estimated(below, "decimal", ENGLISH), estimated(below, "signed", ENGLISH)):
        assert (shown.text, shown.notes[0][:6], shown.values[""]) == ("−0.123", "−0.250", -0.1234)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("-0.02 (-0.05 to +0.01)", "−0.02 (−0.05 to +0.01)"),
        ("-.5 [-1, 2]", "−.5 [−1, 2]"),
        ("2024-01-02, run-3, 0.02-0.03, --seed -a", "2024-01-02, run-3, 0.02-0.03, --seed -a"),
    ],
)
def test_only_a_minus_of_a_number_becomes_a_minus_sign(text, shown):
    assert with_minus_sign(text) == shown
