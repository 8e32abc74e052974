"""A sequential test of whether the distribution of a number has changed, with a bound on its false alarms.

Each new value gets its conformal p-value among a reference and all values before it (Vovk, Gammerman, Shafer 2005).
While the values are exchangeable with those, these p-values are independent and uniform, however few they are, since
ties are broken at random. Bets against that, ``e * p ** (e - 1)`` and ``1 + b * (1 - 2 * p)``, are multiplied into a
Shiryaev-Roberts statistic, ``R = (R + 1) * bet``. It starts afresh with every value, so that a change after a year is
detected as soon as one in the first week (Vovk et al. 2021, Retrain or not retrain; Shin, Ramdas & Rinaldo 2024,
E-detectors). ``R`` minus the number of values is a martingale: the probability that ``R`` reaches ``limit`` within n
values is at most ``n / limit``.

Values are counted in predefined bins. This keeps the p-values exact and the size of the state constant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

_POWERS, _SLOPES = (0.1, 0.25, 0.5), (0.5, 1.0)  # for a few very small p-values, and for many small ones
_N_BETS = len(_POWERS) + len(_SLOPES)
_RECENT = 100  # time constant of the recent mean, in values
_MIN_P = 1e-12
_KEPT_ALARMS = 20


class Detector(BaseModel):
    """State of the test of one number.

    Attributes:
        edges: edges between the bins, ascending.
        counts: values in each bin, including the reference.
        two_sided: whether to detect a fall as well as a rise.
        limit: value of the statistic that raises an alarm and resets it.
        statistics: one per bet; those against a rise come first.
        n: number of values seen, without the reference.
        mean, recent: mean of all values, and of about the last hundred.
        n_alarms, alarms: number of alarms, and the last of them, each as the number of values seen by then and
            ``rose`` or ``fell``.
    """

    model_config = ConfigDict(extra="forbid")

    edges: list[float]
    counts: list[int]
    two_sided: bool
    limit: float
    statistics: list[float] = []
    n: int = 0
    mean: float = 0.0
    recent: float = 0.0
    n_alarms: int = 0
    alarms: list[tuple[int, str]] = []

    @classmethod
    def of(
        cls, edges: Sequence[float], reference: Sequence[float] = (), *, two_sided: bool = False, limit: float
    ) -> Detector:
        """Return a detector that has seen only the reference."""
        counts = [0] * (len(edges) + 1)
        for value in reference:
            counts[bisect_right(edges, value)] += 1
        return cls(edges=list(edges), counts=counts, two_sided=two_sided, limit=limit)

    def add(self, value: float, random: np.random.Generator) -> bool:
        """Add one value; return whether it raises an alarm."""
        p = self._p_value(value, random)
        self.n += 1
        self.mean += (value - self.mean) / self.n
        self.recent += (value - self.recent) / min(self.n, _RECENT)
        sides = [p, 1 - p] if self.two_sided else [p]
        bets = [bet for side in sides for bet in _bets(max(side, _MIN_P))]
        before = self.statistics or [0.0] * len(bets)
        self.statistics = [(statistic + 1) * bet for statistic, bet in zip(before, bets, strict=True)]
        if self.evidence < 1:
            return False
        how = "rose" if sum(self.statistics[:_N_BETS]) >= sum(self.statistics[_N_BETS:]) else "fell"
        self.alarms = [*self.alarms, (self.n, how)][-_KEPT_ALARMS:]
        self.n_alarms, self.statistics = self.n_alarms + 1, []
        return True

    @property
    def evidence(self) -> float:
        """The mean statistic divided by its limit; an alarm is raised at 1."""
        return sum(self.statistics) / max(1, len(self.statistics)) / self.limit

    def _p_value(self, value: float, random: np.random.Generator) -> float:
        """Count the value and return its p-value, which is small if it is higher than the values before it."""
        place = bisect_right(self.edges, value)
        higher, total = sum(self.counts[place + 1 :]), sum(self.counts) + 1
        self.counts[place] += 1
        return (higher + random.random() * self.counts[place]) / total


def _bets(p: float) -> Iterator[float]:
    """Bets with mean 1 for uniform p, and convex in p, so that a mean of ranks (over fold models) cannot gain."""
    yield from (power * p ** (power - 1) for power in _POWERS)
    yield from (1 + slope * (1 - 2 * p) for slope in _SLOPES)
