"""The sections of the report, one module and one template each, in the order of the page."""

from __future__ import annotations

from med_transfer.report.section import SectionModule
from med_transfer.report.sections import (
    calibration,
    checklists,
    comparisons,
    confusion,
    curves,
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

SECTIONS: tuple[SectionModule, ...] = (
    first_screen,
    flow,
    domain,
    operating_point,
    rates,
    further_measures,
    prevalence,
    sample_size,
    confusion,
    curves,
    calibration,
    # decision_curve
    # conformal
    comparisons,
    fusion,
    subgroups,
    shortcuts,
    explanations,
    misses,
    training,
    methods,
    model_card,
    checklists,
)
