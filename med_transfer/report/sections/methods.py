"""How the figures of the page were found."""

from __future__ import annotations

from med_transfer.page import Translator
from med_transfer.report.evidence import Evidence
from med_transfer.report.numbers import INTERVALS
from med_transfer.report.section import Section


def section(evidence: Evidence, t: Translator) -> Section:
    """This part of the report in the language of ``t``."""
    return Section(t("Methods"), values={"interval": t(INTERVALS[evidence.metrics.evaluation.interval])})
