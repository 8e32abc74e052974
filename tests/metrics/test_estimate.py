"""Which interval of an estimate is shown, and that rounding claims no more precision than was found."""

import pytest

from med_transfer.bundle.applied_model_card import _rate_text
from med_transfer.cli.summary import estimate_text
from med_transfer.errors.numbers import rounded, significant, threshold
from med_transfer.evaluation.comparison import report
from med_transfer.metrics.non_inferiority import non_inferiority
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.page import ENGLISH
from med_transfer.report import numbers

CLUSTERED = Estimate(value=0.8, ci95=(0.75, 0.85), ci95_cluster=(0.6, 0.9), method="")


def test_where_patients_have_several_scans_the_interval_over_patients_is_the_one_that_is_said():
    assert CLUSTERED.in_percent == "80% [60%, 90%]"
    assert estimate_text(CLUSTERED) == "0.80 [0.60, 0.90]"
    assert report.estimate_text(CLUSTERED) == "0.80 (0.60 to 0.90)"
    assert _rate_text(CLUSTERED) == "0.800 (0.600 to 0.900, 95 %)"
    alone = CLUSTERED.model_copy(update={"ci95_cluster": None})
    assert estimate_text(alone) == "0.80 [0.75, 0.85]"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1, "100%"),
        (0.9999, "99.9%"),
        (249 / 250, "99.6%"),
        (0.99, "99%"),
        (0.005, "0.5%"),
        (0.004, "0.4%"),
        (0.0001, "0.1%"),
        (0, "0%"),
    ],
)
def test_one_case_that_was_missed_is_not_rounded_to_none(value, said):
    assert Estimate(value=value, ci95=None, method="").in_percent == said


@pytest.mark.parametrize(
    ("number", "decimals", "said"),
    [
        (299 / 300, 2, "0.997"),
        (0.9998, 3, "0.9998"),
        (1.0, 2, "1.00"),
        (1 - 1e-12, 2, "1.00"),
        (0.003, 2, "0.003"),
        (0.0, 3, "0.000"),
        (1e-8, 2, "0.0001"),
        (0.99999, 2, "0.9999"),
        (-1e-7, 3, "-0.0001"),
        (0.87, 2, "0.87"),
    ],
)
def test_what_is_nearly_one_or_nearly_none_keeps_as_many_decimals_as_tell(number, decimals, said):
    assert rounded(number, decimals) == said


def test_a_terminal_and_a_comparison_do_not_round_to_certainty():
    one_missed = Estimate(value=299 / 300, ci95=(0.9815, 0.9994), method="")
    assert estimate_text(one_missed) == "0.997 [0.98, 0.999]"
    assert report.estimate_text(one_missed) == "0.997 (0.98 to 0.999)"


def test_a_difference_is_told_from_nothing_and_from_the_margin_that_its_verdict_rests_on():
    better = Estimate(value=0.04, ci95=(0.003, 0.08), method="")
    assert report.signed_text(better) == "+0.04 (+0.003 to +0.08)"
    assert estimate_text(better, signed=True) == "+0.04 [+0.003, +0.08]"
    short = Estimate(value=-0.02, ci95=(-0.0502, 0.01), method="")
    assert non_inferiority(short, 0.05, n_patients=60).verdict == "not shown"
    assert report.signed_text(short, margin=0.05) == "-0.02 (-0.0502 to +0.01)"
    assert estimate_text(short, signed=True, margin=0.05) == "-0.02 [-0.0502, +0.01]"


def test_a_report_does_not_round_an_interval_to_certainty():
    one_missed = Estimate(value=2999 / 3000, ci95=(0.99811, 0.99994), method="")
    assert numbers.percent_interval(one_missed.ci95, ENGLISH) == "99.8 to 99.9"
    assert numbers.decimal(one_missed) == "0.9997"
    assert numbers.decimal_interval((0.0004, 1.0), ENGLISH) == "0.0004 to 1.000"
    assert numbers.signed_interval((0.0002, 0.08), ENGLISH) == "+0.0002 to +0.080"
    assert numbers.ratio(one_missed.model_copy(update={"value": 0.004})) == "0.004"
    assert [threshold(limit) for limit in (0.35, 0.99961, 1.0)] == ["0.35", "0.9996", "1"]


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0, 2, "0"), (0.0313, 2, "0.031"), (4.24, 2, "4.2"), (99.7, 2, "100"), (126.4, 2, "126"), (-1023.4, 3, "-1023")],
)
def test_significant_digits_never_need_an_exponent_for_large_numbers(value, digits, text):
    assert significant(value, digits) == text
