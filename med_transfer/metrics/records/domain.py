"""Records of a cohort's profile, and of its shift from a bundle's development cohort, in metrics.json."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.records.estimate import Estimate, Record

OUT_OF_DISTRIBUTION = 0.95  # a scan of greater novelty than this share of held-out scans; by chance 5 % of scans are


class Spread(Record):
    """Five-number summary of a fact over the ``n`` scans that have it."""

    n: int
    low: float
    quartile_1: float
    median: float
    quartile_3: float
    high: float


class CohortProfile(Record):
    """Counts and quantiles of labelled scans.

    Attributes:
        prevalence: share of scans with each class.
        numbers: spread of each numeric acquisition fact.
        texts: number of scans by value of each text fact; only the most frequent values.
    """

    n_scans: int
    n_patients: int
    prevalence: dict[str, float]
    numbers: dict[str, Spread] = Field(default_factory=dict)
    texts: dict[str, dict[str, int]] = Field(default_factory=dict)


class NumberShift(Record):
    """Shift of a numeric fact.

    Attributes:
        training: spread in the development scans; None if unknown.
        here: spread in this cohort; None if no scan states it.
        outside: share of this cohort's scans outside the range of the development scans.
    """

    training: Spread | None
    here: Spread | None
    outside: Estimate | None


class TextShift(Record):
    """Shift of a text fact: share of scans by value, in development and in this cohort.

    Attributes:
        unseen: share of this cohort's scans with a value that no development scan had; None if unknown.
    """

    training: dict[str, float] | None
    here: dict[str, float]
    unseen: Estimate | None


class PrevalenceShift(Record):
    """Share of a class in the development scans (None if unknown) and in this cohort."""

    training: float | None
    here: Estimate


class Domain(Record):
    """Shift of a cohort from the development cohort of the bundle that is evaluated on it.

    Attributes:
        outside_envelope: share of scans with a spacing outside the range of training, along any axis.
        outside_by_axis: number of such scans along column, row and slice.
        novelty: spread of the novelty, in [0, 1].
        out_of_distribution: share of scans with greater novelty than 95 % of held-out scans; 5 % is expected.
        abstain_above: novelty above which the bundle abstains; None if it never does, and ``abstained`` is None.
        abstained: share of scans above that limit.
        prevalence: by class.
        numbers, texts: acquisition facts, by name.
    """

    renamed_keys: ClassVar[dict[str, str]] = {"strange": "out_of_distribution"}

    outside_envelope: Estimate
    outside_by_axis: dict[str, int]
    novelty: Spread
    out_of_distribution: Estimate
    abstain_above: float | None
    abstained: Estimate | None
    prevalence: dict[str, PrevalenceShift]
    numbers: dict[str, NumberShift] = Field(default_factory=dict)
    texts: dict[str, TextShift] = Field(default_factory=dict)

    @property
    def far(self) -> bool:
        """Whether more scans than expected by chance are out-of-distribution, or outside the envelope."""
        return any(
            share.interval is not None and share.interval[0] > 1 - OUT_OF_DISTRIBUTION
            for share in (self.out_of_distribution, self.outside_envelope)
        )


class Overlap(Record):
    """How many of the evaluated scans were seen before.

    A scan counts as seen if its patient, or the identical image, is among the hashes in the bundle.

    Attributes:
        n_scans, n_patients: scans and patients evaluated.
        seen_scans, seen_patients: those that the network was trained on.
        seen_by_source: number of seen scans that the source network or its pretraining used; None if the bundle does
            not separate its source's patients from its own.
    """

    n_scans: int
    n_patients: int
    seen_scans: int
    seen_patients: int
    seen_by_source: int | None = None

    @property
    def sentence(self) -> str:
        """The overlap in words; empty if nothing was seen."""
        if not self.seen_scans:
            return ""
        return Sentence(
            "{seen} of {n} scans ({seen_patients} of {n_patients} patients) were seen in training: these figures are "
            "not of new patients",
            seen=self.seen_scans,
            n=self.n_scans,
            seen_patients=self.seen_patients,
            n_patients=self.n_patients,
        )
