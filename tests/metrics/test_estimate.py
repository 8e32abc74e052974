"""Which interval of an estimate is said, and that rounding says no more than was found."""

import pytest

from med_transfer.bundle.applied_model_card import _said
from med_transfer.cli.summary import estimate_text
from med_transfer.evaluation.comparison import report
from med_transfer.metrics.records.estimate import Estimate

CLUSTERED = Estimate(value=0.8, ci95=(0.75, 0.85), ci95_cluster=(0.6, 0.9), method="")


def test_where_patients_have_several_scans_the_interval_over_patients_is_the_one_that_is_said():
    assert CLUSTERED.in_percent == "80% [60%, 90%]"
    assert estimate_text(CLUSTERED) == "0.80 [0.60, 0.90]"
    assert report.estimate_text(CLUSTERED) == "0.80 (0.60 to 0.90)"
    assert _said(CLUSTERED) == "0.800 (0.600 to 0.900, 95 %)"
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
