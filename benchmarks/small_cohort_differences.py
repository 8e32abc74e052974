"""How wide the interval of a difference between two cross-validated models of 52 patients must be; by simulation.

    OMP_NUM_THREADS=1 nice -n 15 python benchmarks/small_cohort_differences.py > differences.md

Samples, models and truth are those of ``small_cohorts.py``; the second model's features share half of the first one's
noise, and are as informative. Each interval is that of a test set, with its half-width multiplied by 1, 1.2 and the
root of 2. Prints Markdown.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from small_cohorts import FEATURES, LABELS, PATIENTS, REPEATS, TELLING, Floats, Sample, Tally, printed

from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.estimate import Interval

FACTORS = (1.0, 1.2, 2**0.5)
SHARED = 0.7  # correlation of the two models' noise
Measured = tuple[str, float, Interval | None, float]


def another(sample: Sample, separation: float, rng: np.random.Generator) -> Sample:
    """The same patients seen by another network."""

    def seen(features: Floats, truth: np.ndarray) -> Floats:
        signal = np.outer(truth, np.arange(FEATURES) < TELLING) * separation / np.sqrt(TELLING)
        return signal + SHARED * (features - signal) + np.sqrt(1 - SHARED**2) * rng.normal(size=features.shape)

    return replace(sample, features=seen(sample.features, sample.truth), new=seen(sample.new, sample.new_truth))


def measured(pair: tuple[Sample, Sample], repeats: int, seed: int) -> list[Measured]:
    """Name, value, interval and truth of one model's measures and of both models' differences."""
    probabilities, truths = [], []
    for sample in pair:
        found = [sample.cross_fitted(np.arange(PATIENTS), seed * REPEATS + repeat) for repeat in range(repeats)]
        probabilities.append(np.mean([of_repeat for of_repeat, _ in found], axis=0))
        truths.append(sample.true_values(found[0][1]))
    truth, patients = pair[0].truth, [f"p{row}" for row in range(PATIENTS)]
    first, second = (
        LabelledPredictions.of(np.stack([~truth, truth], axis=1), np.stack([1 - p, p], axis=1), patients, LABELS)
        for p in probabilities
    )
    difference = paired_difference(first, second, PatientBootstrap(patients, 400, seed))
    alone = printed(probabilities[0], truth, out_of_fold=False)
    both = [(one.value or 0.0, one.ci95) for one in (difference.macro_auc, difference.balanced_accuracy)]
    names = ("AUC", "balanced accuracy", "difference of AUC", "difference of balanced accuracy")
    known = (*truths[0], *np.subtract(*truths))
    return [(name, *estimate, true) for name, estimate, true in zip(names, (*alone, *both), known, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--separations", type=float, nargs="+", default=[0.0, 1.5, 3.0], help="distance of the classes")
    asked = parser.parse_args()
    print("| separation | folds | measure | as for a test | times 1.2 | times √2 |\n| -- | -- | -- | -- | -- | -- |")
    for separation in asked.separations:
        tallies: dict[tuple[str, str], list[Tally]] = {}
        for number in range(asked.samples):
            rng = np.random.default_rng([0, number, round(10 * separation)])
            sample = Sample.drawn(separation, rng)
            pair = sample, another(sample, separation, rng)
            for repeats, folds in ((1, "5"), (REPEATS, "5 x 5")):
                for name, value, limits, truth in measured(pair, repeats, number):
                    for tally, factor in zip(
                        tallies.setdefault((folds, name), [Tally() for _ in FACTORS]), FACTORS, strict=True
                    ):
                        wider = limits and (value + factor * (limits[0] - value), value + factor * (limits[1] - value))
                        tally.add(value, wider, truth)
        for (folds, name), row in tallies.items():
            cells = " | ".join(f"{100 * np.mean(tally.held):.1f} [{np.mean(tally.widths):.2f}]" for tally in row)
            print(f"| {separation} | {folds} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
