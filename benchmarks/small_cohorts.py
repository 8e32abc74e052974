"""How to evaluate a model of 52 patients: a held-out third, 5 folds once, or 5 x 5 folds; by simulation.

    OMP_NUM_THREADS=1 nice -n 15 python benchmarks/small_cohorts.py > small_cohorts.md

Every sample is one cohort of 52 patients (23 with the disease) with 64 normal features, as from a frozen network, of
which six are informative; the model is a logistic regression, trained as an ensemble of five folds as `finetune` does.
An interval should contain the true value of the very ensemble that the cohort gives, which is measured on 4,000 new
patients. The model of the held-out third was trained on 35 patients, the others on all 52. Coverage is counted over
cohorts, as is how often the interval of an AUC lies above 0.5. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from med_transfer.metrics.auc import weighted_auc
from med_transfer.metrics.intervals import PatientBootstrap, percentile_interval
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.measures import balanced_accuracy, macro_auc
from med_transfer.metrics.records.estimate import Interval
from med_transfer.predictions.labels import Labels

PATIENTS, CASES, FEATURES, TELLING, NEW = 52, 23, 64, 6, 4000
FOLDS, REPEATS = 5, 5
LABELS = Labels(("none", "disease"))
Floats = NDArray[np.float64]


@dataclass
class Tally:
    """Results of one way to evaluate: error, width, coverage."""

    errors: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    above_chance: list[bool] = field(default_factory=list)

    def add(self, value: float, interval: Interval | None, truth: float) -> None:
        self.errors.append(value - truth)
        low, high = interval or (0.0, 1.0)
        self.widths.append(high - low)
        self.held.append(low <= truth <= high)
        self.above_chance.append(low > 0.5)

    def cell(self) -> str:
        """Coverage in % [mean width], mean error, root of the mean squared error."""
        errors = np.array(self.errors)
        off = f"{errors.mean():+.3f}, {np.sqrt((errors**2).mean()):.3f}"
        return f"{100 * np.mean(self.held):.1f} [{np.mean(self.widths):.2f}] {off}"


@dataclass(frozen=True)
class Model:
    """Logistic regression, penalised like scikit-learn's with C = 0.1 and balanced classes; faster on so few rows."""

    weight: Floats
    bias: float

    @classmethod
    def learned(cls, features: Floats, truth: NDArray[np.bool_]) -> Model:
        """Fit by Newton's method."""
        rows = np.column_stack([features, np.ones(len(features))])
        penalty = np.append(np.full(features.shape[1], 10.0), 1e-9)
        share, found = np.where(truth, 0.5 / truth.mean(), 0.5 / (1 - truth.mean())), np.zeros(rows.shape[1])
        for _ in range(8):
            p = expit(rows @ found)
            gradient = rows.T @ (share * (p - truth)) + penalty * found
            curvature = (rows.T * (share * p * (1 - p))) @ rows + np.diag(penalty)
            found = found - np.linalg.solve(curvature, gradient)
        return cls(found[:-1], float(found[-1]))

    def says(self, features: Floats) -> Floats:
        """The probability of the disease."""
        return expit(features @ self.weight + self.bias)


@dataclass(frozen=True)
class Sample:
    """A cohort, new patients, and how a model is trained."""

    features: Floats
    truth: NDArray[np.bool_]
    new: Floats
    new_truth: NDArray[np.bool_]

    @classmethod
    def drawn(cls, separation: float, rng: np.random.Generator) -> Sample:
        telling = np.arange(FEATURES) < TELLING
        truth, new_truth = np.arange(PATIENTS) < CASES, np.arange(NEW) < NEW * CASES // PATIENTS
        of_both = (
            rng.normal(size=(len(known), FEATURES)) + np.outer(known, telling) * separation / np.sqrt(TELLING)
            for known in (truth, new_truth)
        )
        features, new = of_both
        return cls(features, truth, new, new_truth)

    def model(self, rows: NDArray[np.intp]) -> Model:
        return Model.learned(self.features[rows], self.truth[rows])

    def cross_fitted(self, rows: NDArray[np.intp], seed: int) -> tuple[Floats, list[Model]]:
        """Out-of-fold probabilities [row], and the fold models."""
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(rows, self.truth[rows])
        found, models = np.zeros(len(rows)), []
        for learned_from, left_out in folds:
            models.append(self.model(rows[learned_from]))
            found[left_out] = models[-1].says(self.features[rows[left_out]])
        return found, models

    def true_values(self, models: list[Model]) -> tuple[float, float]:
        """AUC and balanced accuracy of the ensemble on the new patients."""
        found = np.mean([model.says(self.new) for model in models], axis=0)
        return float(roc_auc_score(self.new_truth, found)), float(balanced_accuracy_score(self.new_truth, found >= 0.5))


def printed(
    found: Floats, truth: NDArray[np.bool_], *, out_of_fold: bool = True
) -> list[tuple[float, Interval | None]]:
    """AUC and balanced accuracy with the intervals of the report, as if each row were a patient."""
    scores, known = np.stack([1 - found, found], axis=1), np.stack([~truth, truth], axis=1)
    predictions = LabelledPredictions.of(known, scores, [f"p{row:04d}" for row in range(len(truth))], LABELS)
    predictions = replace(predictions, out_of_fold=out_of_fold)
    return [(one.value or 0.0, one.ci95) for one in (macro_auc(predictions), balanced_accuracy(predictions))]


def mean_of_measures(repeats: list[Floats], truth: NDArray[np.bool_], seed: int) -> list[tuple[float, Interval | None]]:
    """Measure each repeat, then average; percentiles of patients resampled jointly over the repeats."""
    bootstrap = PatientBootstrap([f"p{i:04d}" for i in range(len(truth))], 400, seed)

    def areas(weights: Floats) -> Floats:
        return np.mean([weighted_auc(truth, found, weights) for found in repeats], axis=0)

    def accuracies(weights: Floats) -> Floats:
        right = np.mean([(found >= 0.5) == truth for found in repeats], axis=0)
        by_class = [(weights[:, known] @ right[known]) / weights[:, known].sum(axis=1) for known in (truth, ~truth)]
        return np.mean(by_class, axis=0)

    measures: tuple[Callable[[Floats], Floats], ...] = (areas, accuracies)
    once = np.ones((1, len(truth)))
    return [(float(of(once)[0]), percentile_interval(bootstrap.distribution(of))) for of in measures]


def measured(sample: Sample, seed: int) -> dict[str, list[tuple[float, Interval | None, float]]]:
    """Evaluation method -> for AUC and balanced accuracy: value, interval, truth."""
    everyone = np.arange(PATIENTS)
    rest, third = next(StratifiedKFold(3, shuffle=True, random_state=seed).split(everyone, sample.truth))
    _, of_the_rest = sample.cross_fitted(rest, seed)
    held_out = np.mean([model.says(sample.features[third]) for model in of_the_rest], axis=0)
    found = [sample.cross_fitted(everyone, seed + repeat) for repeat in range(REPEATS)]
    repeats, truth, bundle = [of_repeat for of_repeat, _ in found], sample.truth, sample.true_values(found[0][1])
    mean = np.mean(repeats, axis=0)
    ways = {
        "a held-out third": (printed(held_out, truth[third], out_of_fold=False), sample.true_values(of_the_rest)),
        "5 folds, once (as printed)": (printed(repeats[0], truth), bundle),
        "5 x 5, mean probability (as printed)": (printed(mean, truth), bundle),
        "5 x 5, mean probability, interval of a test": (printed(mean, truth, out_of_fold=False), bundle),
        "5 x 5, mean of the measures": (mean_of_measures(repeats, truth, seed), bundle),
        "5 x 5, as if 260 patients": (
            printed(np.concatenate(repeats), np.tile(truth, REPEATS), out_of_fold=False),
            bundle,
        ),
    }
    return {
        way: [(*estimate, true) for estimate, true in zip(estimates, truths, strict=True)]
        for way, (estimates, truths) in ways.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400, help="cohorts drawn for each table")
    parser.add_argument("--separations", type=float, nargs="+", default=[0.0, 1.5, 3.0], help="distance of the classes")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    error = 100 * np.sqrt(0.95 * 0.05 / asked.samples)
    print(
        f"{asked.samples} cohorts a table, seed {asked.seed}; nominal 95 %, Monte Carlo error {error:.1f}. Each cell: "
        "coverage in % [mean width] mean error, root of the mean squared error."
    )
    for separation in asked.separations:
        tallies: dict[str, tuple[Tally, Tally]] = {}
        truths = []
        for number in range(asked.samples):
            sample = Sample.drawn(separation, np.random.default_rng([asked.seed, number, round(10 * separation)]))
            for way, estimates in measured(sample, number * REPEATS).items():
                for tally, estimate in zip(tallies.setdefault(way, (Tally(), Tally())), estimates, strict=True):
                    tally.add(*estimate)
                truths.append([true for *_, true in estimates])
        auc, accuracy = np.mean(truths, axis=0)
        print(
            f"\nTrue AUC {auc:.2f}, balanced accuracy {accuracy:.2f}:\n\n| measured by | AUC | balanced accuracy |"
            " AUC above chance, % |"
        )
        print("| -- | -- | -- | -- |")
        for way, (of_auc, of_accuracy) in tallies.items():
            above = 100 * np.mean(of_auc.above_chance)
            print(f"| {way} | {of_auc.cell()} | {of_accuracy.cell()} | {above:.1f} |", flush=True)


if __name__ == "__main__":
    main()
