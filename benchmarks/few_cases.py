"""With few cases per class: coverage of intervals of overall measures, and false verdicts on equal networks.

    OMP_NUM_THREADS=1 python benchmarks/few_cases.py > few_cases.md
    OMP_NUM_THREADS=1 python benchmarks/few_cases.py --samples 100    # for a look

Three classes, of which two have ``rarest`` patients and the third as many or ten times as many; each score is normal
and ``separation`` higher for the true class. Scans of a patient correlate with 0.7, two networks with 0.5 or 0.9. The
truth is the mean over large sets with the same class shares. First table: coverage in % of nominal 95 %, and the median
width; percentiles of 300 patient bootstraps are given for comparison. Second: how often two equally good networks get a
verdict, gain or harm, where at most 5 % may, and how often the 95 % intervals of the differences contain 0. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.intervals import PatientBootstrap, percentile_interval
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.measures import balanced_accuracy, macro_auc
from med_transfer.metrics.rates import weighted_balanced_accuracy
from med_transfer.metrics.records.estimate import Estimate, Interval
from med_transfer.metrics.transfer_gain import transfer_gain
from med_transfer.predictions.labels import Labels

RAREST, MORE, SCANS = (4, 8, 12, 30), (1, 10), (1, 3)
SEPARATIONS, CORRELATIONS = (1.0, 3.0), (0.5, 0.9)
WITHIN_PATIENT, DRAWS, LABELS = 0.7, 300, Labels(("a", "b", "c"))


def networks(
    counts: tuple[int, ...], scans: int, separation: float, rng: np.random.Generator, correlations: tuple[float, ...]
) -> list[LabelledPredictions]:
    """Predictions of equally good networks on one test set, given their correlation with a shared component."""
    of_patient = np.repeat(np.arange(3), counts)
    truth = np.eye(3, dtype=bool)[np.repeat(of_patient, scans)]
    patients = [f"p{n:05d}" for n in np.repeat(np.arange(len(of_patient)), scans)]

    def noise() -> NDArray[np.float64]:
        shared = np.repeat(rng.normal(size=(len(of_patient), 3)), scans, axis=0)
        return np.sqrt(WITHIN_PATIENT) * shared + np.sqrt(1 - WITHIN_PATIENT) * rng.normal(size=truth.shape)

    base = noise()
    scores = [separation * truth + np.sqrt(r) * base + np.sqrt(1 - r) * noise() for r in correlations]
    return [LabelledPredictions.of(truth, softmax(score, axis=1), patients, LABELS) for score in scores]


def percentiles(predictions: LabelledPredictions, seed: int) -> list[Interval | None]:
    """Percentile intervals of balanced accuracy and macro AUC."""
    bootstrap = PatientBootstrap(predictions.patients, DRAWS, seed)

    def both(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(
            [
                weighted_balanced_accuracy(predictions.truth, predictions.predicted, weights, multilabel=False),
                weighted_macro_auc(predictions.truth, predictions.probabilities, weights),
            ],
            axis=1,
        )

    return [percentile_interval(draws) for draws in bootstrap.distribution(both).T]


def coverage(counts: tuple[int, ...], scans: int, separation: float, samples: int) -> str:
    rng = np.random.default_rng([*counts, scans, round(10 * separation)])
    many = max(1, 3000 // sum(counts))
    large = [networks(tuple(many * n for n in counts), 1, separation, rng, (1.0,))[0] for _ in range(5)]
    reached = [[measure(one).value for one in large] for measure in (balanced_accuracy, macro_auc)]
    truth = np.array(reached, float).mean(axis=1).tolist()
    held, plain, widths = np.zeros(2), np.zeros(2), []
    for sample in range(samples):
        (predictions,) = networks(counts, scans, separation, rng, (1.0,))
        printed = [balanced_accuracy(predictions).ci95, macro_auc(predictions).ci95]
        held += [_holds(interval, value) for interval, value in zip(printed, truth, strict=True)]
        others = percentiles(predictions, sample)
        plain += [_holds(interval, value) for interval, value in zip(others, truth, strict=True)]
        widths.append([np.ptp(interval or (np.nan, np.nan)) for interval in printed])
    width = np.nanmedian(widths, axis=0)
    cells = (
        f"{truth[k]:.3f} | {100 * held[k] / samples:.1f} [{width[k]:.2f}] | {100 * plain[k] / samples:.1f}"
        for k in range(2)
    )
    return " | ".join(cells)


def _holds(interval: Interval | None, value: float) -> bool:
    return interval is not None and interval[0] - 1e-9 <= value <= interval[1] + 1e-9


def false_verdicts(counts: tuple[int, ...], scans: int, correlation: float, samples: int) -> str:
    rng = np.random.default_rng([*counts, scans, round(10 * correlation)])
    verdicts, held = [], np.zeros(2)
    for _ in range(samples):
        first, second = networks(counts, scans, 1.0, rng, (correlation, correlation))
        gain = transfer_gain(first, second.probabilities, n_boot=DRAWS)
        verdicts.append(gain.verdict != "none")
        held += [_shows_nothing(gain.balanced_sensitivity), _shows_nothing(gain.macro_auc)]
    return " | ".join(f"{100 * share:.1f}" for share in (np.mean(verdicts), *(held / samples)))


def _shows_nothing(difference: Estimate) -> bool:
    return difference.excludes_zero == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    samples = parser.parse_args().samples
    head = ("patients of the classes", "scans a patient")
    overall = ("balanced accuracy", "covered [width]", "percentiles", "macro AUC", "covered [width]", "percentiles")
    _line(*head, "separation", *overall)
    _line(*["---"] * 9)
    for rarest, more, scans, separation in itertools.product(RAREST, MORE, SCANS, SEPARATIONS):
        counts = (rarest, rarest, more * rarest)
        _line(_text(counts), str(scans), f"{separation:g}", coverage(counts, scans, separation, samples))
    print()
    _line(*head, "correlation", "verdict of equal networks, %", "balanced accuracy covered", "macro AUC covered")
    _line(*["---"] * 6)
    for rarest, more, scans, correlation in itertools.product(RAREST, MORE, SCANS, CORRELATIONS):
        counts = (rarest, rarest, more * rarest)
        _line(_text(counts), str(scans), f"{correlation:g}", false_verdicts(counts, scans, correlation, samples))


def _text(counts: tuple[int, ...]) -> str:
    return ", ".join(map(str, counts))


def _line(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
