"""Paired tests of two models on the same scans: McNemar's exact test and DeLong's, corrected for multiple models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from med_transfer.errors.sentence import Sentence, Text
from med_transfer.metrics.delong import delong
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.estimate import Record

_CLUSTERED = Sentence("some patients have several scans, which the test would count as independent; see the intervals")
_OUT_OF_FOLD = Sentence(
    "networks were trained on patients whom other networks predicted, which the test ignores; see the intervals"
)
_TOO_FEW = Sentence("too few scans: some class has one or none")
_NO_SPREAD = Sentence("every placement agrees: the scans are too few to have a variance")


class PairedTest(Record):
    """One test of the null hypothesis "no difference", or "worse by the margin or more".

    Attributes:
        p_value: two-sided, or one-sided for a margin; None if undefined, and ``reason`` says why.
        p_holm: the p-value corrected for the number of models compared.
        found: what it was computed from, in words.
    """

    method: Text
    p_value: float | None
    p_holm: float | None = None
    found: Text = ""
    reason: Text = ""


def mcnemar(first: LabelledPredictions, second: LabelledPredictions) -> PairedTest:
    """Test whether two models call equally many scans right, from the scans that only one of them calls right.

    With several findings, a scan counts as right if all of them are.

    Source: McNemar 1947, Psychometrika 12:153; exact binomial form.
    """
    method = Sentence("McNemar, exact")
    if reason := _not_applicable_reason(first, second):
        return PairedTest(method=method, p_value=None, reason=reason)
    ours, theirs = _right(first), _right(second)
    only_first, only_second = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    discordant = Sentence(
        "scans that only this run calls right: {ours}; that only the reference does: {theirs}",
        ours=only_first,
        theirs=only_second,
    )
    return PairedTest(method=method, p_value=mcnemar_p(only_first, only_second), found=discordant)


def _not_applicable_reason(first: LabelledPredictions, second: LabelledPredictions) -> Text:
    """Why a test that assumes independent scans does not apply; empty if it does."""
    if first.clustered:
        return _CLUSTERED
    return _OUT_OF_FOLD if first.out_of_fold or second.out_of_fold else ""


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p-value of the discordant pairs; 1 if there are none."""
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def _right(predictions: LabelledPredictions) -> NDArray[np.bool_]:
    return (predictions.predicted == predictions.truth).all(axis=1)


def delong_test(first: LabelledPredictions, second: LabelledPredictions) -> PairedTest:
    """Test whether two models have the same macro AUC; see :func:`med_transfer.metrics.delong.delong`."""
    method = Sentence("DeLong, macro AUC")
    if reason := _not_applicable_reason(first, second):
        return PairedTest(method=method, p_value=None, reason=reason)
    difference = delong(first.truth, first.probabilities, second.probabilities, multilabel=first.labels.multilabel)
    if difference is None:
        return PairedTest(method=method, p_value=None, reason=_TOO_FEW)
    error = float(np.sqrt(difference.variance))
    text = Sentence("difference {value:+.3f}, standard error {error:.3f}", value=difference.value, error=error)
    reason = "" if difference.p_value is not None else _NO_SPREAD
    return PairedTest(method=method, p_value=difference.p_value, found=text, reason=reason)


def delong_margin_test(first: LabelledPredictions, second: LabelledPredictions, margin: float) -> PairedTest:
    """Test one-sided, by DeLong's variance, whether the first macro AUC is less than ``margin`` below the second."""
    method = Sentence("DeLong, macro AUC less than {margin:g} below, one-sided", margin=margin)
    tested = delong_test(first, second)
    if tested.p_value is None:
        return tested.model_copy(update={"method": method})
    difference = delong(first.truth, first.probabilities, second.probabilities, multilabel=first.labels.multilabel)
    p_value = difference.p_above(-margin) if difference else None
    return tested.model_copy(
        update={"method": method, "p_value": p_value, "reason": _NO_SPREAD if p_value is None else ""}
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm-corrected p-values in the same order; None, where there was no test, stays None.

    Source: Holm 1979, Scand J Statist 6:65.
    """
    order = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for done, (p, number) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - done) * p))
        corrected[number] = largest
    return corrected


def corrected(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Return the tests of several models against one, with Holm's correction."""
    values = holm([test.p_value for test in tests])
    return [test.model_copy(update={"p_holm": value}) for test, value in zip(tests, values, strict=True)]
