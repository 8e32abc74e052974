"""Where the network looks by default: at the table's regions, if it has them."""

from pathlib import Path

import pytest

from med_transfer.cohorts import Case, Cohort
from med_transfer.errors import ConfigError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.region_choice import choose_region, region_sentence, require_regions
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import InputConfig

PLACES = {
    "none": {},
    "roi": {"roi_centre_mm": (1.0, 2.0, 3.0), "roi_size_mm": 9.0},
    "mask": {"mask": Path("mask.nii.gz")},
}


def cohort(*places: str) -> Cohort:
    cases = [Case(f"{n}.nii", Path(f"{n}.nii"), f"p{n}", "ab"[n % 2], **PLACES[p]) for n, p in enumerate(places)]
    return Cohort(tuple(cases), Labels(("a", "b")))


@pytest.mark.parametrize(
    ("places", "chosen"), [(("none", "none"), "whole"), (("roi", "mask"), "roi"), (("mask",), "roi")]
)
def test_the_table_decides(places, chosen):
    config = choose_region(FinetuneConfig(), cohort(*places))
    assert config.input.region == chosen
    assert choose_region(config, cohort("none", "none")) == config  # once decided, it does not depend on another table


def test_a_table_that_gives_some_scans_a_region_and_others_none_needs_a_word():
    table = cohort("roi", "none", "mask")
    with pytest.raises(ConfigError, match=r"input.region: 1 of 3 rows have no region or mask.*1\.nii .*region=roi"):
        choose_region(FinetuneConfig(), table)
    asked = FinetuneConfig(input=InputConfig(region="roi"))
    assert choose_region(asked, table) == asked
    expected = "input.region: roi, the network looks around the region of interest of each scan; "
    assert region_sentence(asked, table) == f"{expected}the table gives a region or mask for 2 of 3 scans"


def test_regions_of_which_the_table_has_none_are_refused():
    for region, places in (("roi", ("none", "mask")), ("whole", ("none", "none"))):
        require_regions(cohort(*places), region)
    with pytest.raises(
        ConfigError, match=r"input.region: roi, and no row of the table has a region; expected roi_x_mm"
    ):
        require_regions(cohort("none", "none"), "roi")


def test_nothing_is_preprocessed_without_a_decision():
    with pytest.raises(ConfigError, match=r"input.region: Input should be 'roi', 'foreground' or 'whole'"):
        InputConfig().completed({})
