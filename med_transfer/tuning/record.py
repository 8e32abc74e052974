"""What a search found: its trials, the best one, and how it stands to the default with its uncertainty."""

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
STATES: tuple[TrialState, ...] = ("complete", "pruned", "failed", "unfinished")


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes:
        value: mean of ``figures``; None unless complete.
        figures: of each inner fold that was finished.
        values: dotted keys of the config that differ from the default; empty for trial 0, the default itself.
        epochs: trained in all folds together.
        seconds: over all attempts.
        repeats: number of the earlier trial whose config it drew again, and whose figures it takes; else None.
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
    """Best minus default over the same inner folds.

    Attributes:
        mean: of the differences.
        standard_error: None with a single fold.
        ci95: of the mean; None with a single fold.
    """

    mean: float
    standard_error: float | None
    ci95: tuple[float, float] | None


def advantage(best: Sequence[float], default: Sequence[float], validation_share: float) -> Advantage:
    """How much better, fold by fold, with the corrected resampled t interval.

    Folds share most of their training scans, so the plain standard error is too small; the correction adds the ratio of
    validation to training scans to 1 / folds.

    Args:
        best, default: figures of the same folds.
        validation_share: of the development scans in one fold, in (0, 1).

    Source: Nadeau & Bengio 2003, Machine Learning 52:239.
    """
    differences = np.subtract(best, default)
    mean, k = float(differences.mean()), len(differences)
    if k < 2:
        return Advantage(mean, None, None)
    ratio = validation_share / (1 - validation_share)
    error = float(differences.std(ddof=1)) * math.sqrt(1 / k + ratio)
    half = float(student.ppf(0.975, k - 1)) * error
    return Advantage(mean, error, (mean - half, mean + half))


@dataclass(frozen=True)
class Tuning:
    """A search on disk.

    Attributes:
        stopped: why it ended, in words.
        n_scans, n_patients: of the development part.
        n_failed: scans of the cohort that could not be used.
        validation_share: of the development scans in one inner fold, on average.
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
        """Trial 0; None while it has no value."""
        return next((trial for trial in self.complete if trial.number == 0), None)

    @property
    def best(self) -> TrialRecord | None:
        """The highest mean; of equals the earliest, so that nothing beats the default by a tie."""
        return max(self.complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    @property
    def advantage(self) -> Advantage | None:
        """None while there is no best or no default."""
        if self.best is None or self.default is None:
            return None
        return advantage(self.best.figures, self.default.figures, self.validation_share)

    @property
    def best_file(self) -> Path:
        """The best trial's config, as ``finetune`` takes it."""
        return self.folder / "best.yaml"

    @property
    def counts(self) -> dict[TrialState, int]:
        """Trials by how they ended."""
        return {state: sum(trial.state == state for trial in self.trials) for state in STATES}
