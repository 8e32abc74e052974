"""How often a test set was opened, in the reader's language."""

from __future__ import annotations

from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.page import Translator


def times_opened(openings: AccessCounts, t: Translator) -> str:
    """One sentence, for example ``The run's own test set was opened 3 times``; no full stop."""
    if openings.n == 1:
        return t("The run's own test set was opened once") if openings.own else t("The test set was opened once")
    if openings.own:
        return t("The run's own test set was opened {n} times", n=openings.n)
    return t("The test set was opened {n} times", n=openings.n)


def decided_before(openings: AccessCounts, t: Translator) -> str:
    """What had been decided the earlier times; empty when there was none."""
    if openings.n == 1:
        return ""
    if openings.n_other_operating_points:
        return t("{n} of the earlier times with another operating point", n=openings.n_other_operating_points)
    if openings.n_other_decisions:
        return t("{n} of the earlier times with other decisions", n=openings.n_other_decisions)
    return t("each time with the same decisions")
