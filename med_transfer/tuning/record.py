"""The result of a search: its trials, the best one, and its advantage over the default with uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

from med_transfer.tuning.config import TuneConfig

TrialState = Literal["complete", "pruned", "failed", "unfinished"]
_NO_SPREAD = 1e-9  # differences between folds that are rounding
STATES: tuple[TrialState, ...] = ("complete", "pruned", "failed", "unfinished")


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: from 0, which is the default config.
        state: how it ended.
        value: mean of ``figures``; None unless complete.
        figures: one for each finished inner fold.
        values: dotted keys of the config that were drawn, with their values; empty for trial 0.
        epochs: trained in all folds together.
        seconds: over all attempts.
        repeats: number of the earlier trial with the same config, whose figures are reused; else None.
    """

    number: int
    state: TrialState
    value: float | None
    figures: tuple[float, ...]
    values: Mapping[str, Any]
    epochs: int
    seconds: float
    repeats: int | None = None

    @property
    def reason(self) -> str:
        """Why it was pruned or failed, or which trial it repeats, in words; else empty."""
        if self.repeats is not None:
            return f"the same as trial {self.repeats}"
        if self.state == "pruned":
            return "below the median of the trials before it at the same epoch"
        return "the training diverged" if self.state == "failed" else ""


@dataclass(frozen=True)
class Advantage:
    """Best minus default trial over the same inner folds.

    Attributes:
        mean: of the differences.
        standard_error: None with a single fold, or if the difference is the same in every fold.
        ci95: of the mean; None like the standard error.
    """

    mean: float
    standard_error: float | None
    ci95: tuple[float, float] | None


def advantage(best: Sequence[float], default: Sequence[float], validation_share: float) -> Advantage:
    """Mean difference over folds with the corrected resampled t interval.

    Folds share most of their training scans, so the plain standard error is too small; the correction adds the ratio of
    validation to training scans to 1 / folds.

    Args:
        best, default: figures of the same folds.
        validation_share: share of the development scans in one validation fold, in (0, 1).

    Source: Nadeau & Bengio 2003, Machine Learning 52:239.
    """
    differences = np.subtract(best, default)
    mean, k = float(differences.mean()), len(differences)
    if k < 2 or np.ptp(differences) < _NO_SPREAD:  # an interval without width would suggest certainty
        return Advantage(mean, None, None)
    ratio = validation_share / (1 - validation_share)
    error = float(differences.std(ddof=1)) * math.sqrt(1 / k + ratio)
    half = float(student.ppf(0.975, k - 1)) * error
    return Advantage(mean, error, (mean - half, mean + half))


@dataclass(frozen=True)
class Tuning:
    """A search on disk.

    Attributes:
        folder: of its files.
        config: of the search.
        trials: in order.
        strategies: that were drawn from.
        stopped: why it ended, in words.
        n_scans, n_patients: of the development part.
        n_folds: inner folds of each trial.
        n_failed: number of the cohort's scans that could not be used.
        validation_share: mean share of the development scans in one inner fold.
        tested: whether test scans were kept apart.
    """

    folder: Path
    config: TuneConfig
    trials: tuple[TrialRecord, ...]
    strategies: tuple[str, ...]
    stopped: str
    n_scans: int
    n_patients: int
    n_folds: int
    n_failed: int
    validation_share: float
    tested: bool = True

    @property
    def complete(self) -> tuple[TrialRecord, ...]:
        """The trials that have a value."""
        return tuple(trial for trial in self.trials if trial.value is not None)

    @property
    def default(self) -> TrialRecord | None:
        """Trial 0; None if it has no value yet."""
        return next((trial for trial in self.complete if trial.number == 0), None)

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the highest value; a tie goes to the earliest, so nothing beats the default by it."""
        return max(self.complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    @property
    def advantage(self) -> Advantage | None:
        """Advantage of the best trial over the default; None if either has no value yet."""
        if self.best is None or self.default is None:
            return None
        return advantage(self.best.figures, self.default.figures, self.validation_share)

    @property
    def best_file(self) -> Path:
        """Path of the best trial's config, for ``finetune``."""
        return self.folder / "best.yaml"

    @property
    def counts(self) -> dict[TrialState, int]:
        """Number of trials by state."""
        return {state: sum(trial.state == state for trial in self.trials) for state in STATES}
