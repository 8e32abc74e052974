"""Confidence intervals: Wilson for proportions, resampling of patients for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root_scalar
from scipy.stats import norm

from med_transfer.evaluation.estimate import Interval

Z95 = float(norm.ppf(0.975))
_BLOCK = 250  # draws held in memory at once
_MINIMUM_DEFINED = 0.5  # share of draws in which a statistic must exist for its interval to mean something


def wilson(hits: float, total: float) -> Interval | None:
    """95 % score interval of the proportion hits / total; None when total is 0.

    Never leaves [0, 1] and does not collapse at 0 or ``total`` hits. Source: Wilson 1927, JASA 22:209.
    """
    if total <= 0:
        return None
    proportion, z2 = hits / total, Z95**2
    centre = (proportion + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * np.sqrt(proportion * (1 - proportion) / total + z2 / (4 * total**2))
    # The limit at a proportion of 0 or 1 is exact; rounding must not move it.
    low = 0.0 if hits <= 0 else float(centre - half)
    high = 1.0 if hits >= total else float(centre + half)
    return low, high


def newcombe(auc: float, n_cases: int, n_others: int) -> Interval | None:
    """95 % score-type interval of an AUC from the numbers of cases and others; None when either is 0.

    Used where resampling is blind: an AUC of exactly 0 or 1 is the same in every draw.
    Source: Newcombe 2006, Stat Med 25:559, method 5.
    """
    if not n_cases or not n_others:
        return None
    star = (n_cases + n_others) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + star * (1 - theta) / (2 - theta) + star * theta / (1 + theta)
        return (auc - theta) ** 2 - Z95**2 * theta * (1 - theta) * spread / (n_cases * n_others)

    low = 0.0 if auc <= 0 else root_scalar(excess, bracket=(0.0, auc - 1e-9)).root
    high = 1.0 if auc >= 1 else root_scalar(excess, bracket=(auc + 1e-9, 1.0)).root
    return float(low), float(high)


def percentile_interval(draws: NDArray[np.float64]) -> Interval | None:
    """2.5th and 97.5th percentile of the draws in which the statistic exists; None when over half lack it."""
    defined = draws[np.isfinite(draws)]
    if len(draws) == 0 or len(defined) < _MINIMUM_DEFINED * len(draws):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def is_degenerate(draws: NDArray[np.float64]) -> bool:
    """True when all draws agree, so that their spread says nothing about uncertainty."""
    defined = draws[np.isfinite(draws)]
    return len(defined) > 0 and bool(np.ptp(defined) < 1e-12)


@dataclass(frozen=True)
class PatientBootstrap:
    """Resamples patients with replacement, each with all of their scans.

    Scans of one patient resemble each other; resampling scans would count them as independent evidence.
    Equal patients and seed give equal draws, so that two statistics of one bootstrap are paired.

    Source: Field & Welsh 2007, JRSS B 69:369 (cluster bootstrap).

    Attributes:
        patients: one entry a scan.
        n_boot: number of draws.
        seed: of the random numbers.
    """

    patients: Sequence[str]
    n_boot: int = 2000
    seed: int = 0

    def distribution(self, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
        """The statistic in every draw: [draw, ...].

        ``statistic`` takes weights [draw, scan] (how often each scan was drawn) and gives [draw, ...].
        """
        _, patient_of_scan = np.unique(np.asarray(self.patients, dtype=str), return_inverse=True)
        n_patients = int(patient_of_scan.max()) + 1
        rng = np.random.default_rng(self.seed)
        blocks = []
        for start in range(0, self.n_boot, _BLOCK):
            rows = min(_BLOCK, self.n_boot - start)
            drawn = rng.integers(n_patients, size=(rows, n_patients)) + np.arange(rows)[:, None] * n_patients
            times = np.bincount(drawn.ravel(), minlength=rows * n_patients).reshape(rows, n_patients)
            blocks.append(statistic(times[:, patient_of_scan].astype(np.float64)))
        return np.concatenate(blocks)

    def __str__(self) -> str:
        return f"percentile bootstrap over patients ({self.n_boot} draws, seed {self.seed})"
