"""The choice of the input region, if the config leaves it to the cohort table."""

from __future__ import annotations

from typing import TypeVar

from med_transfer.cohorts import Cohort
from med_transfer.errors import ConfigError
from med_transfer.finetuning.config import FinetuneConfig

Config = TypeVar("Config", bound=FinetuneConfig)


def choose_region(config: Config, cohort: Cohort) -> Config:
    """Resolve ``input.region: auto`` to ``roi`` if every row has a region or mask, and to ``whole`` if none has.

    Raises:
        ConfigError: ``auto``, and only some rows have one.
    """
    if config.input.region != "auto":
        return config
    without = [case for case in cohort.cases if case.within == "whole"]
    if without and len(without) < len(cohort):
        raise ConfigError(
            f"{len(without)} of {len(cohort)} rows have no region or mask, and the others do: {without[0]} ...",
            where="input.region",
            expected="one in every row, or a setting that says what is meant",
            action="--set input.region=roi leaves these scans out; input.region=whole makes no use of any region",
        )
    region = "whole" if without else "roi"
    return config.model_copy(update={"input": config.input.model_copy(update={"region": region})})


def require_regions(cohort: Cohort, region: str) -> None:
    """Refuse ``roi``, before a scan is read, if no row of the table has a region or mask. Raises ConfigError."""
    if region == "roi" and all(case.within == "whole" for case in cohort.cases):
        raise ConfigError(
            f"roi, and no row of {cohort.path or 'the table'} has a region",
            where="input.region",
            expected="roi_x_mm, roi_y_mm, roi_z_mm or a mask in the table",
            action="Add them, or set input.region=whole or foreground",
        )


def region_sentence(config: FinetuneConfig, cohort: Cohort) -> str:
    """The chosen region in words, and for how many scans the table gives one."""
    given = sum(case.within != "whole" for case in cohort.cases)
    return f"{config.input.region_sentence}; the table gives a region or mask for {given} of {len(cohort)} scans"
