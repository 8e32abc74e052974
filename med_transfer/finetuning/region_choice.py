"""Where the network is to look, where the config leaves that to the cohort table."""

from __future__ import annotations

from typing import TypeVar

from med_transfer.cohorts import Cohort
from med_transfer.errors import ConfigError
from med_transfer.finetuning.config import FinetuneConfig

Config = TypeVar("Config", bound=FinetuneConfig)


def choose_region(config: Config, cohort: Cohort) -> Config:
    """``input.region: auto`` becomes ``roi`` where every row has a region or mask, and ``whole`` where none has.

    Raises:
        ConfigError: only some rows have one, and nothing says what is meant.
    """
    if config.input.region != "auto":
        return config
    without = [case for case in cohort.cases if case.within == "whole"]
    if without and len(without) < len(cohort):
        raise ConfigError(
            f"{len(without)} of {len(cohort)} rows have no region or mask, and the others do: {without[0]} ...",
            where="input.region",
            expected="one in every row, or a word that says what is meant",
            action="--set input.region=roi leaves these scans out; input.region=whole makes no use of any region",
        )
    region = "whole" if without else "roi"
    return config.model_copy(update={"input": config.input.model_copy(update={"region": region})})


def region_sentence(config: FinetuneConfig, cohort: Cohort) -> str:
    """What was chosen, and what the table gives."""
    given = sum(case.within != "whole" for case in cohort.cases)
    return f"{config.input.region_sentence}; the table gives a region or mask for {given} of {len(cohort)} scans"
