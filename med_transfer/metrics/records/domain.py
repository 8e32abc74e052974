"""What a cohort looked like, and what metrics.json says of how far it lies from a bundle's development cohort."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.records.estimate import Estimate, Record

OUT_OF_DISTRIBUTION = (
    0.95  # of greater novelty than this share of held-out scans; the rest of them is expected by chance
)


class Spread(Record):
    """Of a number over the scans that have it: ``n`` of them."""

    n: int
    low: float
    quartile_1: float
    median: float
    quartile_3: float
    high: float


class CohortProfile(Record):
    """Counts and quantiles of labelled scans.

    Attributes:
        prevalence: class to the share of scans that have it.
        numbers: fact of the acquisition to its spread.
        texts: fact to value to the number of scans; at most the most frequent values.
    """

    n_scans: int
    n_patients: int
    prevalence: dict[str, float]
    numbers: dict[str, Spread] = Field(default_factory=dict)
    texts: dict[str, dict[str, int]] = Field(default_factory=dict)


class NumberShift(Record):
    """A fact that is a number.

    Attributes:
        training: None where the bundle does not remember it.
        here: None where no scan of this cohort states it.
        outside: share of the scans here that lie outside the range of training.
    """

    training: Spread | None
    here: Spread | None
    outside: Estimate | None


class TextShift(Record):
    """A fact that is text: value to share of the scans, there and here.

    Attributes:
        unseen: share of the scans here with a value that no development scan had; None where that is not known.
    """

    training: dict[str, float] | None
    here: dict[str, float]
    unseen: Estimate | None


class PrevalenceShift(Record):
    """A class: its share in training (None where the bundle does not remember it) and here."""

    training: float | None
    here: Estimate


class Domain(Record):
    """A cohort held against the development cohort of the bundle that is evaluated on it.

    Attributes:
        outside_envelope: share of scans with a spacing below or above everything in training, along any axis.
        outside_by_axis: number of them along column, row and slice.
        novelty: spread of the novelty, itself a share of held-out scans in [0, 1].
        out_of_distribution: share of scans of greater novelty than 95 % of held-out scans; of scans like those 5 % are.
        abstain_above: the bundle's limit; None: it never abstains, and ``abstained`` is None.
        abstained: share of scans above that limit.
        prevalence: by class.
        numbers, texts: facts of the acquisition, by name.
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
        """Whether more scans than chance explains are out-of-distribution, or lie outside the envelope."""
        return any(
            share.interval is not None and share.interval[0] > 1 - OUT_OF_DISTRIBUTION
            for share in (self.out_of_distribution, self.outside_envelope)
        )


class Overlap(Record):
    """How many of the evaluated scans were seen before.

    A scan counts as seen when its patient's pseudonym or the very same image is among those that the bundle remembers.

    Attributes:
        n_scans, n_patients: that were evaluated.
        seen_scans, seen_patients: that the network has learned from.
        seen_by_source: scans among them that the source network, or its pretraining, has learned from; None where the
            bundle does not tell its source's patients from its own.
    """

    n_scans: int
    n_patients: int
    seen_scans: int
    seen_patients: int
    seen_by_source: int | None = None

    @property
    def sentence(self) -> str:
        """In words; empty when nothing was seen."""
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
