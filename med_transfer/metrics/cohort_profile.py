"""What a cohort looked like, without saying who was in it: classes and acquisition in counts and quantiles.

A bundle keeps the profile of the scans it was developed on, so that another cohort can be held against it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_MOST_VALUES = 20  # of a fact that is text; the rarer ones are not kept


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Spread(_Record):
    """Of a number over the scans that have it: ``n`` of them."""

    n: int
    low: float
    quartile_1: float
    median: float
    quartile_3: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.floating]) -> Spread:
        """Of at least one finite number."""
        low, quartile_1, median, quartile_3, high = np.quantile(np.asarray(values, float), [0, 0.25, 0.5, 0.75, 1])
        return cls(n=len(values), low=low, quartile_1=quartile_1, median=median, quartile_3=quartile_3, high=high)


class CohortProfile(_Record):
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

    @classmethod
    def of(
        cls,
        truth: NDArray[np.bool_],
        classes: Sequence[str],
        patients: Sequence[str],
        facts: Sequence[Mapping[str, str | float]],
    ) -> CohortProfile:
        """Of scans with truth [scan, class] and their facts; one entry a scan in each."""
        numbers, texts = {}, {}
        for name in sorted({name for scan in facts for name in scan}):
            values = [scan[name] for scan in facts if name in scan]
            if all(isinstance(value, float) for value in values):
                numbers[name] = Spread.of([float(value) for value in values])
            else:
                texts[name] = dict(Counter(map(str, values)).most_common(_MOST_VALUES))
        return cls(
            n_scans=len(truth),
            n_patients=len(set(patients)),
            prevalence=dict(zip(classes, truth.mean(axis=0).tolist(), strict=True)),
            numbers=numbers,
            texts=texts,
        )
