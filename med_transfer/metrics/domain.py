"""Domain shift between an evaluated cohort and the development cohort: spacing, novelty, prevalence, acquisition.

How far the cohorts differ determines whether an external evaluation tests reproducibility or transportability (Debray
et al. 2015, J Clin Epidemiol 68:279).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from med_transfer.metrics.binomial import clopper_pearson, wilson
from med_transfer.metrics.effective_trials import effective_trials
from med_transfer.metrics.records.domain import (
    OUT_OF_DISTRIBUTION,
    CohortProfile,
    Domain,
    NumberShift,
    PrevalenceShift,
    Spread,
    TextShift,
)
from med_transfer.metrics.records.estimate import Estimate

_AXES = ("column", "row", "slice")
_MAX_VALUES = 20  # most frequent values kept of a text fact
_ROUNDING = 1e-3  # mm; spacings that differ by less are equal


def spread_of(values: Sequence[float] | NDArray[np.floating]) -> Spread:
    """Return the five-number summary of at least one finite number."""
    low, quartile_1, median, quartile_3, high = np.quantile(np.asarray(values, float), [0, 0.25, 0.5, 0.75, 1])
    return Spread(n=len(values), low=low, quartile_1=quartile_1, median=median, quartile_3=quartile_3, high=high)


def profile_of(
    truth: NDArray[np.bool_],
    classes: Sequence[str],
    patients: Sequence[str],
    facts: Sequence[Mapping[str, str | float]],
) -> CohortProfile:
    """Return counts and quantiles of scans.

    Args:
        truth: boolean [scan, class].
        classes: class names.
        patients: patient of each scan.
        facts: acquisition facts of each scan.
    """
    numbers, texts = {}, {}
    for name in sorted({name for scan in facts for name in scan}):
        values = [scan[name] for scan in facts if name in scan]
        if all(isinstance(value, float) for value in values):
            numbers[name] = spread_of([float(value) for value in values])
        else:
            texts[name] = dict(Counter(map(str, values)).most_common(_MAX_VALUES))
    return CohortProfile(
        n_scans=len(truth),
        n_patients=len(set(patients)),
        prevalence=dict(zip(classes, truth.mean(axis=0).tolist(), strict=True)),
        numbers=numbers,
        texts=texts,
    )


@dataclass(frozen=True, eq=False)
class AcquiredScans:
    """Scans to compare with the development scans.

    Attributes:
        spacing_mm: [scan, channel, 3] along column, row, slice.
        novelty: [scan], in [0, 1].
        facts: acquisition facts of each scan.
        patients: patient of each scan.
        truth: boolean [scan, class], with the classes in the order of the profile's.
    """

    spacing_mm: NDArray[np.float64]
    novelty: NDArray[np.float64]
    facts: Sequence[Mapping[str, str | float]]
    patients: Sequence[str]
    truth: NDArray[np.bool_]

    def known_values(self, name: str) -> tuple[list[str | float], list[str]]:
        """Return the known values of a fact, and the patients of these scans."""
        known = [(scan[name], whose) for scan, whose in zip(self.facts, self.patients, strict=True) if name in scan]
        return [value for value, _ in known], [whose for _, whose in known]


def domain_of(
    scans: AcquiredScans,
    here: CohortProfile,
    *,
    envelope_mm: tuple[ArrayLike, ArrayLike],
    training: CohortProfile | None,
    abstain_above: float | None,
) -> Domain:
    """Compare a cohort with the one a bundle was developed on.

    Args:
        scans: scans of the cohort.
        here: profile of the same scans.
        envelope_mm: smallest and largest spacing in training, each [channel, 3].
        training: profile of the development scans; None if unknown.
        abstain_above: novelty above which the bundle abstains; None if it never does.
    """
    low, high = (np.asarray(limits) for limits in envelope_mm)
    outside, novelty = (scans.spacing_mm < low - _ROUNDING) | (scans.spacing_mm > high + _ROUNDING), scans.novelty
    return Domain(
        outside_envelope=_share(np.any(outside, axis=(1, 2)), scans.patients),
        outside_by_axis=dict(zip(_AXES, outside.any(axis=1).sum(axis=0).tolist(), strict=True)),
        novelty=spread_of(novelty),
        out_of_distribution=_share(novelty > OUT_OF_DISTRIBUTION, scans.patients),
        abstain_above=abstain_above,
        abstained=None if abstain_above is None else _share(novelty > abstain_above, scans.patients),
        prevalence={
            name: PrevalenceShift(
                training=training.prevalence.get(name) if training else None,
                here=_share(present, scans.patients),
            )
            for name, present in zip(here.prevalence, scans.truth.T, strict=True)
        },
        numbers={name: _number(name, scans, here, training) for name in _names("numbers", here, training)},
        texts={name: _text(name, scans, here, training) for name in _names("texts", here, training)},
    )


def _names(kind: str, here: CohortProfile, training: CohortProfile | None) -> list[str]:
    return sorted({*getattr(here, kind), *(getattr(training, kind) if training else ())})


def _number(name: str, scans: AcquiredScans, here: CohortProfile, training: CohortProfile | None) -> NumberShift:
    then, (values, patients) = training.numbers.get(name) if training else None, scans.known_values(name)
    outside = None
    if then is not None and values:
        numbers = np.array(values, dtype=np.float64)
        outside = _share((numbers < then.low - _ROUNDING) | (numbers > then.high + _ROUNDING), patients)
    return NumberShift(training=then, here=here.numbers.get(name), outside=outside)


def _text(name: str, scans: AcquiredScans, here: CohortProfile, training: CohortProfile | None) -> TextShift:
    then, (values, patients) = training.texts.get(name) if training else None, scans.known_values(name)
    rarer_are_lost = then is not None and len(then) >= _MAX_VALUES
    unseen = None
    if then and values and not rarer_are_lost:
        unseen = _share(np.array([value not in then for value in values]), patients)
    n_then = training.n_scans if training and rarer_are_lost else sum((then or {}).values())
    here_shares = _shares(here.texts.get(name), len(values)) or {}
    return TextShift(training=_shares(then, n_then), here=here_shares, unseen=unseen)


def _shares(counts: Mapping[str, int] | None, of: int) -> dict[str, float] | None:
    """Shares of ``of`` scans; they may sum to less than 1, as counts of rare values are not kept."""
    return None if counts is None else {value: n / of for value, n in counts.items()}


def _share(scans: NDArray[np.bool_], patients: Sequence[str]) -> Estimate:
    """Share of the marked scans; where patients have several scans, with an interval over patients as well."""
    hits, n = int(scans.sum()), len(scans)
    estimate = Estimate(value=hits / n, ci95=wilson(hits, n), method="Wilson score interval over scans")
    if len(set(patients)) == n:
        return estimate
    trials = effective_trials(scans, np.ones(n, dtype=bool), patients)
    cluster = clopper_pearson(hits / n * trials, trials)
    method = f"{estimate.method}; ci95_cluster: Korn-Graubard over patients"
    return estimate.model_copy(update={"ci95_cluster": cluster, "method": method})
