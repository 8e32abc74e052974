"""How far a cohort lies from the one a network was developed on: spacing, novelty, prevalence, acquisition.

Figures from another cohort hold for patients like these; this says how unlike the training cohort they are, and so what
the figures are a test of (Debray et al. 2015, J Clin Epidemiol 68:279).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from med_transfer.metrics.binomial import wilson
from med_transfer.metrics.cohort_profile import CohortProfile, Spread
from med_transfer.metrics.estimate import Estimate, Record

STRANGE = 0.95  # stranger than this share of held-out scans; 1 - STRANGE of them is expected by chance
_AXES = ("column", "row", "slice")
_ROUNDING = 1e-3  # mm; a spacing that differs by less is the same


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
        unseen: share of the scans here with a value that no development scan had.
    """

    training: dict[str, float] | None
    here: dict[str, float]
    unseen: Estimate | None


class PrevalenceShift(Record):
    """A class: its share in training (None where the bundle does not remember it) and here."""

    training: float | None
    here: Estimate


class Domain(Record):
    """A cohort held against the development cohort of the bundle that is judged on it.

    Attributes:
        outside_envelope: share of scans with a spacing below or above everything in training, along any axis.
        outside_by_axis: number of them along column, row and slice.
        novelty: spread of the novelty, itself a share of held-out scans in [0, 1].
        strange: share of scans stranger than 95 % of held-out scans; 5 % is expected of scans like those.
        abstain_above: the bundle's limit; None: it never abstains, and ``abstained`` is None.
        abstained: share of scans above that limit.
        prevalence: by class.
        numbers, texts: facts of the acquisition, by name.
    """

    outside_envelope: Estimate
    outside_by_axis: dict[str, int]
    novelty: Spread
    strange: Estimate
    abstain_above: float | None
    abstained: Estimate | None
    prevalence: dict[str, PrevalenceShift]
    numbers: dict[str, NumberShift] = Field(default_factory=dict)
    texts: dict[str, TextShift] = Field(default_factory=dict)

    @property
    def far(self) -> bool:
        """Whether more scans than chance explains are strange, or lie outside the envelope."""
        return any(
            share.ci95 is not None and share.ci95[0] > 1 - STRANGE for share in (self.strange, self.outside_envelope)
        )


def domain_of(
    spacing_mm: NDArray[np.float64],
    novelty: NDArray[np.float64],
    facts: Sequence[Mapping[str, str | float]],
    here: CohortProfile,
    *,
    envelope_mm: tuple[ArrayLike, ArrayLike],
    training: CohortProfile | None,
    abstain_above: float | None,
) -> Domain:
    """Hold a cohort against the one a bundle was developed on.

    Args:
        spacing_mm: [scan, channel, 3] along column, row, slice.
        novelty: [scan] in [0, 1].
        facts: of the acquisition, one entry a scan; ``here`` is the profile of the same scans.
        envelope_mm: smallest and largest spacing in training: two of [channel, 3].
        training: profile of the development scans; None where the bundle does not remember it.
        abstain_above: novelty at which the bundle abstains.
    """
    low, high = (np.asarray(limits) for limits in envelope_mm)
    outside = (spacing_mm < low - _ROUNDING) | (spacing_mm > high + _ROUNDING)
    return Domain(
        outside_envelope=_share(np.any(outside, axis=(1, 2))),
        outside_by_axis=dict(zip(_AXES, outside.any(axis=1).sum(axis=0).tolist(), strict=True)),
        novelty=Spread.of(novelty),
        strange=_share(novelty > STRANGE),
        abstain_above=abstain_above,
        abstained=None if abstain_above is None else _share(novelty > abstain_above),
        prevalence={
            name: PrevalenceShift(
                training=training.prevalence.get(name) if training else None,
                here=_proportion(round(share * here.n_scans), here.n_scans),
            )
            for name, share in here.prevalence.items()
        },
        numbers={name: _number(name, facts, here, training) for name in _names("numbers", here, training)},
        texts={name: _text(name, facts, here, training) for name in _names("texts", here, training)},
    )


def _names(kind: str, here: CohortProfile, training: CohortProfile | None) -> list[str]:
    return sorted({*getattr(here, kind), *(getattr(training, kind) if training else ())})


def _number(
    name: str, facts: Sequence[Mapping[str, str | float]], here: CohortProfile, training: CohortProfile | None
) -> NumberShift:
    then, values = training.numbers.get(name) if training else None, [scan[name] for scan in facts if name in scan]
    outside = None
    if then is not None and values:
        numbers = np.array(values, dtype=np.float64)
        outside = _share((numbers < then.low - _ROUNDING) | (numbers > then.high + _ROUNDING))
    return NumberShift(training=then, here=here.numbers.get(name), outside=outside)


def _text(
    name: str, facts: Sequence[Mapping[str, str | float]], here: CohortProfile, training: CohortProfile | None
) -> TextShift:
    then, values = training.texts.get(name) if training else None, [scan[name] for scan in facts if name in scan]
    unseen = _share(np.array([value not in then for value in values])) if then and values else None
    return TextShift(training=_shares(then), here=_shares(here.texts.get(name)) or {}, unseen=unseen)


def _shares(counts: Mapping[str, int] | None) -> dict[str, float] | None:
    return None if counts is None else {value: n / sum(counts.values()) for value, n in counts.items()}


def _share(scans: NDArray[np.bool_]) -> Estimate:
    return _proportion(int(scans.sum()), len(scans))


def _proportion(hits: int, of: int) -> Estimate:
    return Estimate(value=hits / of, ci95=wilson(hits, of), method="Wilson score interval over scans")
