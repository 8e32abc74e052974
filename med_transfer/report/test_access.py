"""How often a test set was read, in the reader's language."""

from __future__ import annotations

from med_transfer.metrics.records.decisions import AccessCounts
from med_transfer.page import Translator


def times_read(counts: AccessCounts, t: Translator) -> str:
    """One sentence, for example ``The run's own test set was read 3 times``; no full stop."""
    if counts.own and not counts.all_own:
        if counts.n == 1:
            return t("Scans of the run's own test set, among others, were read once")
        return t("Scans of the run's own test set, among others, were read {n} times", n=counts.n)
    if counts.n == 1:
        return t("The run's own test set was read once") if counts.own else t("The test set was read once")
    if counts.own:
        return t("The run's own test set was read {n} times", n=counts.n)
    return t("The test set was read {n} times", n=counts.n)


def decided_before(counts: AccessCounts, t: Translator) -> str:
    """What had been decided the earlier times; empty when there was none."""
    if counts.n == 1:
        return ""
    if counts.n_other_operating_points:
        return t("{n} of the earlier times with a different operating point", n=counts.n_other_operating_points)
    if counts.n_other_decisions:
        return t("{n} of the earlier times with different decisions", n=counts.n_other_decisions)
    return t("each time with the same decisions")
