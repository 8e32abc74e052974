"""Was the ranking right? The prediction before training against the results of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, weightedtau

from med_transfer.errors import UsageError


@dataclass(frozen=True)
class RankingQuality:
    """How well a ranking predicted the results.

    Attributes:
        kendall_tau: see :func:`kendall_tau`; None where undefined.
        weighted_tau: see :func:`weighted_tau`; None where undefined.
        regret: see :func:`regret`.
        n: number of things ranked.
        chosen: the one that the ranking put first.
        best: the one with the best result.
    """

    kendall_tau: float | None
    weighted_tau: float | None
    regret: float
    n: int
    chosen: str
    best: str


def ranking_quality(order: Sequence[str], results: Mapping[str, float]) -> RankingQuality:
    """Compare an order of names, best first, with their results (higher is better).

    Raises:
        UsageError: the names differ, one occurs twice, or there are fewer than two.
    """
    if sorted(order) != sorted(results) or len(order) < 2:
        raise UsageError(
            f"an order of {', '.join(order) or 'nothing'} and results of {', '.join(results) or 'nothing'}",
            expected="the same names in both, at least two, each once",
        )
    foretold = -np.arange(len(order), dtype=np.float64)
    achieved = np.array([results[name] for name in order])
    return RankingQuality(
        kendall_tau(foretold, achieved),
        weighted_tau(foretold, achieved),
        regret(foretold, achieved),
        len(order),
        chosen=order[0],
        best=max(order, key=lambda name: results[name]),
    )


def kendall_tau(foretold: ArrayLike, achieved: ArrayLike) -> float | None:
    """Kendall's tau-b, -1 (reversed) to 1 (the same order); None if one side is all ties.

    ::

        (concordant - discordant) / sqrt((pairs - tied in the first) (pairs - tied in the second))

    Source: Kendall 1945, Biometrika 33:239.
    """
    return _defined(kendalltau(*_pair(foretold, achieved)).statistic)  # type: ignore[attr-defined]


def weighted_tau(foretold: ArrayLike, achieved: ArrayLike) -> float | None:
    """Kendall's tau with pairs weighted 1 / (1 + r) + 1 / (1 + s), where r and s are their ranks from 0, best first.

    A mistake among the best counts more than one among the worst. None if one side is all ties.

    Source: Vigna 2015, WWW, doi:10.1145/2736277.2741088; for ranking backbones, You et al. 2021, arXiv:2102.11005.
    """
    return _defined(weightedtau(*_pair(foretold, achieved)).statistic)  # type: ignore[attr-defined]


def regret(foretold: ArrayLike, achieved: ArrayLike) -> float:
    """The best result minus that of the predicted best, at least 0; with tied predictions, minus their mean."""
    first, second = _pair(foretold, achieved)
    return float(second.max() - second[first == first.max()].mean())


def _pair(foretold: ArrayLike, achieved: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(foretold, np.float64), np.asarray(achieved, np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise UsageError(f"{first.shape} and {second.shape} values", expected="two or more pairs")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise UsageError("NaN or infinite values", expected="finite ones", action="Leave out what has no result")
    return first, second


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
