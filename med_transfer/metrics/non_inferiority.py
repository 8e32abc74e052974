"""Non-inferiority of one model to another, by a margin stated before the scans were seen."""

from __future__ import annotations

from typing import Literal

from med_transfer.errors import UsageError
from med_transfer.errors.given_numbers import is_finite
from med_transfer.errors.sentence import Sentence, Text
from med_transfer.metrics.records.estimate import Estimate, Record

_NO_WIDTH = 1e-12  # an interval of zero width would suggest certainty
MIN_PATIENTS = 6  # of five pairs that all point one way, an exact sign test gives p = 0.06
Verdict = Literal["superior", "non-inferior", "not shown", "inferior"]


class NonInferiority(Record):
    """Verdict on the difference between a run and the reference in one measure.

    Attributes:
        margin: the largest loss that would not matter, in (0, 1).
        verdict: from the 95 % interval of the difference. ``superior``: all of it above 0; ``non-inferior``: all of it
            above minus the margin; ``inferior``: all of it below minus the margin; ``not shown``: it contains minus the
            margin, there is no interval, or there are fewer than six patients.
        sentence: the verdict in words.
    """

    margin: float
    verdict: Verdict
    sentence: Text


def non_inferiority(difference: Estimate, margin: float, n_patients: int) -> NonInferiority:
    """Return the verdict on a difference, run minus reference, on so many patients.

    Raises UsageError for an invalid margin.

    The lower limit of a two-sided 95 % interval gives a one-sided test at 2.5 %, as guidelines require.

    Source: Piaggio et al. 2012, JAMA 308:2594 (CONSORT for non-inferiority), figure 1.
    """
    verdict, sentence = _verdict_and_sentence(difference, checked_margin(margin), n_patients)
    return NonInferiority(margin=margin, verdict=verdict, sentence=sentence)


def checked_margin(margin: float) -> float:
    """Return ``margin``. Raises UsageError unless it lies between 0 and 1."""
    if not (is_finite(margin) and 0 < margin < 1):
        raise UsageError(f"{margin!r}", where="margin", expected="a difference between 0 and 1, as 0.05")
    return margin


def _verdict_and_sentence(difference: Estimate, margin: float, n_patients: int) -> tuple[Verdict, Sentence]:
    if n_patients < MIN_PATIENTS:
        return "not shown", Sentence("not shown: there are fewer than {least} patients", least=MIN_PATIENTS)
    if difference.ci95 is None:
        why = difference.reason or Sentence("the difference has no interval")
        return "not shown", Sentence("not shown: {why}", why=why)
    low, high = difference.ci95
    if high - low < _NO_WIDTH:
        return "not shown", Sentence(
            "not shown: every resample agrees, so the scans are too few or the models the same"
        )
    if low > 0:
        return "superior", Sentence("superior: the whole interval lies above 0")
    if low > -margin and high < 0:
        return "non-inferior", Sentence(
            "non-inferior: the interval stays above {limit:g}, though worse: it lies wholly below 0", limit=-margin
        )
    if low > -margin:
        return "non-inferior", Sentence("non-inferior: the interval stays above {limit:g}", limit=-margin)
    if high < -margin:
        return "inferior", Sentence("inferior: the whole interval lies below {limit:g}", limit=-margin)
    return "not shown", Sentence("not shown: the interval reaches below {limit:g}", limit=-margin)
