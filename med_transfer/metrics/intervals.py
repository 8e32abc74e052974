"""Confidence intervals by resampling patients, and Newcombe's interval of an AUC for cases where resampling fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root_scalar
from scipy.stats import norm

from med_transfer.errors.sentence import Sentence, joined
from med_transfer.metrics.binomial import Z95
from med_transfer.metrics.reasons import DRAWS_AGREE, SOME_CLASS_MISSING
from med_transfer.metrics.records.estimate import Estimate, Interval

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_BLOCK = 250  # draws held in memory at once
_MINIMUM_DEFINED = 0.5  # least share of draws in which a statistic must be defined to get an interval


def newcombe(auc: float, n_cases: int, n_others: int, confidence: float = 0.95) -> Interval | None:
    """Return a score-type interval of an AUC from the numbers of cases and others; None when either is 0.

    Used where resampling fails: an AUC of exactly 0 or 1 is the same in every draw.
    Source: Newcombe 2006, Stat Med 25:559, method 5.
    """
    if not n_cases or not n_others:
        return None
    star, z2 = (n_cases + n_others) / 2 - 1, float(norm.ppf((1 + confidence) / 2)) ** 2

    def excess(theta: float) -> float:
        spread = 1 + star * (1 - theta) / (2 - theta) + star * theta / (1 + theta)
        return (auc - theta) ** 2 - z2 * theta * (1 - theta) * spread / (n_cases * n_others)

    low = 0.0 if auc <= 0 else root_scalar(excess, bracket=(0.0, auc - 1e-9)).root
    high = 1.0 if auc >= 1 else root_scalar(excess, bracket=(auc + 1e-9, 1.0)).root
    return float(low), float(high)


def percentile_interval(draws: NDArray[np.float64], confidence: float = 0.95) -> Interval | None:
    """Return the percentile interval of the draws in which the statistic is defined; None if over half lack it."""
    defined = draws[np.isfinite(draws)]
    if len(draws) == 0 or len(defined) < _MINIMUM_DEFINED * len(draws):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bca_interval(value: float, draws: NDArray[np.float64], jackknife: NDArray[np.float64]) -> Interval | None:
    """Return the 95 % bias-corrected and accelerated (BCa) interval.

    Args:
        value: the statistic of the sample.
        draws: the statistic of the resamples; NaN where undefined.
        jackknife: the statistic without each patient in turn.

    Returns:
        None if the correction does not exist: over half of the draws are undefined, all lie on one side of ``value``,
        or a jackknife value is missing or all agree.

    Source: Efron 1987, JASA 82:171; the acceleration by the jackknife, Efron & Tibshirani 1993, equation 14.15.
    """
    if percentile_interval(draws) is None or not np.isfinite(jackknife).all() or np.ptp(jackknife) < 1e-12:
        return None
    defined = draws[np.isfinite(draws)]
    below = (np.mean(defined < value) + np.mean(defined <= value)) / 2
    bias = float(norm.ppf(below))
    if not np.isfinite(bias):
        return None
    distance = jackknife.mean() - jackknife
    acceleration = (distance**3).sum() / (6 * (distance**2).sum() ** 1.5)
    moved = bias + np.array([-Z95, Z95])
    low, high = np.quantile(defined, norm.cdf(bias + moved / (1 - acceleration * moved)))
    return float(low), float(high)


def wider(first: Interval, second: Interval) -> Interval:
    """Return the smallest interval that contains both."""
    return min(first[0], second[0]), max(first[1], second[1])


def is_degenerate(draws: NDArray[np.float64]) -> bool:
    """Whether all draws agree, so that their spread does not reflect uncertainty."""
    defined = draws[np.isfinite(draws)]
    return len(defined) > 0 and bool(np.ptp(defined) < 1e-12)


def is_nearly_degenerate(draws: NDArray[np.float64]) -> bool:
    """Whether all draws agree, or so nearly all that a percentile interval has zero width."""
    limits = percentile_interval(draws)
    return is_degenerate(draws) or (limits is not None and limits[1] - limits[0] < 1e-12)


@dataclass(frozen=True)
class Resampled:
    """A statistic of the sample, of its resamples [draw], and without each patient in turn [patient]."""

    value: float
    draws: NDArray[np.float64]
    jackknife: NDArray[np.float64]

    def interval(self) -> tuple[Interval | None, str]:
        """Return the BCa interval if it exists, else percentiles, and the method's name."""
        bca = bca_interval(self.value, self.draws, self.jackknife)
        if bca is not None:
            return bca, "BCa"
        return percentile_interval(self.draws), "percentile"

    @property
    def degenerate(self) -> bool:
        """Whether the draws do not reflect uncertainty."""
        return is_nearly_degenerate(self.draws)


@dataclass(frozen=True)
class PatientBootstrap:
    """Bootstrap that resamples patients with replacement, each with all scans.

    Scans of one patient are correlated; resampling scans would treat them as independent. The same patients and seed
    give the same draws, so that two statistics of one bootstrap are paired.

    Source: Field & Welsh 2007, JRSS B 69:369 (cluster bootstrap).

    Attributes:
        patients: patient of each scan.
        n_boot: number of draws.
        seed: random seed.
    """

    patients: Sequence[str]
    n_boot: int = 2000
    seed: int = 0

    def distribution(self, statistic: Statistic) -> NDArray[np.float64]:
        """Return the statistic of every draw, [draw, ...].

        ``statistic`` takes weights [draw, scan] (how often each scan was drawn) and returns [draw, ...].
        """
        return np.concatenate([statistic(weights) for weights in self._draws()])

    def observed(self, statistic: Statistic) -> NDArray[np.float64]:
        """Return the statistic of the sample itself, in which every scan counts once, [...]."""
        return statistic(np.ones((1, len(self.patients))))[0]

    def jackknife(self, statistic: Statistic) -> NDArray[np.float64]:
        """Return the statistic without each patient in turn, [patient, ...]."""
        n_patients = int(self._patient_of_scan.max()) + 1
        blocks = [np.arange(start, min(start + _BLOCK, n_patients)) for start in range(0, n_patients, _BLOCK)]
        blocks_of_weights = ((self._patient_of_scan != block[:, None]).astype(np.float64) for block in blocks)
        return np.concatenate([statistic(weights) for weights in blocks_of_weights])

    def described(self, kind: str) -> Sentence:
        """Describe the bootstrap in words; ``kind`` is the kind of interval computed from the draws."""
        return Sentence(
            "{kind} bootstrap over patients ({n} draws, seed {seed})", kind=kind, n=self.n_boot, seed=self.seed
        )

    def __str__(self) -> str:
        return self.described(Sentence("percentile"))

    def _draws(self) -> Iterator[NDArray[np.float64]]:
        n_patients = int(self._patient_of_scan.max()) + 1
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.n_boot, _BLOCK):
            rows = min(_BLOCK, self.n_boot - start)
            drawn = rng.integers(n_patients, size=(rows, n_patients)) + np.arange(rows)[:, None] * n_patients
            times = np.bincount(drawn.ravel(), minlength=rows * n_patients).reshape(rows, n_patients)
            yield times[:, self._patient_of_scan].astype(np.float64)

    @cached_property
    def _patient_of_scan(self) -> NDArray[np.intp]:
        return np.unique(np.asarray(self.patients, dtype=str), return_inverse=True)[1]


def estimate_of_draws(value: float, draws: NDArray[np.float64], what: str, bootstrap: PatientBootstrap) -> Estimate:
    """Return an estimate with a percentile interval; without one if all draws agree, as it would suggest certainty."""
    if is_nearly_degenerate(draws):
        return Estimate(value=value, ci95=None, method=what, reason=Sentence("no interval: {why}", why=DRAWS_AGREE))
    interval = percentile_interval(draws)
    missing = 1 - float(np.isfinite(draws).mean())
    method = joined(what, bootstrap.described(Sentence("percentile")))
    if missing:
        method = Sentence(
            "{method}, {share} of draws lacked a class", method=method, share=f"{max(missing, 0.001):.1%}"
        )
    return Estimate(value=value, ci95=interval, method=method, reason="" if interval else SOME_CLASS_MISSING)
