"""The sections of the report, one module each: the first screen, and four groups that are folded beneath it."""

from __future__ import annotations

from med_transfer.page import sentence
from med_transfer.report.section import SectionModule
from med_transfer.report.sections import (
    calibration,
    checklists,
    comparisons,
    conformal,
    confusion,
    curves,
    decision_curve,
    domain,
    explanations,
    first_screen,
    flow,
    further_measures,
    fusion,
    methods,
    misses,
    model_card,
    operating_point,
    prevalence,
    rates,
    sample_size,
    shortcuts,
    subgroups,
    training,
)

# In the order of use, and of the page: what was found, whether it can be trusted, how it was made, what must be kept.
RESULTS: tuple[SectionModule, ...] = (
    rates,
    further_measures,
    prevalence,
    confusion,
    curves,
    decision_curve,
    conformal,
    fusion,
)
TRUST: tuple[SectionModule, ...] = (
    flow,
    comparisons,
    sample_size,
    calibration,
    domain,
    subgroups,
    shortcuts,
    explanations,
    misses,
)
MAKING: tuple[SectionModule, ...] = (
    operating_point,
    training,
    methods,
)
RECORD: tuple[SectionModule, ...] = (
    model_card,
    checklists,
)
GROUPS: tuple[tuple[str, tuple[SectionModule, ...]], ...] = (
    (sentence("Reading the results"), RESULTS),
    (sentence("Can it be trusted"), TRUST),
    (sentence("How it was made"), MAKING),
    (sentence("For the record"), RECORD),
)
SECTIONS: tuple[SectionModule, ...] = (first_screen, *RESULTS, *TRUST, *MAKING, *RECORD)
