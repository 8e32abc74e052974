"""Coverage of prediction sets, nominal and achieved, by simulation.

    OMP_NUM_THREADS=1 python benchmarks/conformal_coverage.py > coverage.md
    OMP_NUM_THREADS=1 python benchmarks/conformal_coverage.py --draws 100

Three classes of equal size; 20 normal features per scan, with each class's mean at distance 2 from the others. The
network is a nearest-mean classifier that estimates its means, so it is overconfident with few scans. Three designs,
each with n calibration patients of every class:

- one network: trained on n other scans per class; calibrated on n new ones.
- five folds: as in a run. Each calibration scan's probabilities come from the member that was not trained on it; new
  scans get the mean of all five.
- three scans per patient: one network; a patient's scans share three quarters of their variance.

Every draw is a new cohort; its coverage is measured on 1,000 new scans of each class. Besides the mean over draws and
classes, the table gives the tenth percentile over cohorts (one hospital with bad luck) and the mean set size.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from med_transfer.model.calibration.conformal import fit_prediction_sets

SIZES, ALPHAS = (20, 50, 200), (0.1, 0.05)
CLASSES, FEATURES, DISTANCE = 3, 20, 2.0
NEW, FOLDS, SCANS_PER_PATIENT, SHARED = 1000, 5, 3, 0.75
MEANS = np.eye(CLASSES, FEATURES) * DISTANCE / math.sqrt(2)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scans:
    """Features [scan, feature] and classes [scan]."""

    x: Array
    of: NDArray[np.intp]

    def take(self, chosen: NDArray[np.bool_]) -> Scans:
        return Scans(self.x[chosen], self.of[chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(
        "| design | n a class | nominal, % | exact for one network, % | observed, % | 10th percentile, % | set size |"
    )
    print("|---|---|---|---|---|---|---|")
    for number, (name, design) in enumerate(DESIGNS.items()):
        for size in SIZES:
            rng = np.random.default_rng([arguments.seed, number, size])
            draws = [design(rng, size) for _ in range(arguments.draws)]
            for k, alpha in enumerate(ALPHAS):
                print(row(name, size, alpha, np.array([draw[k] for draw in draws])), flush=True)


def row(name: str, size: int, alpha: float, found: Array) -> str:
    """``found`` [draw, class + 1]: coverage of each class, and the mean set size."""
    coverage = 100 * found[:, :-1]
    exact = 100 * min(1.0, math.ceil(round((size + 1) * (1 - alpha), 6)) / (size + 1))
    error = coverage.mean(axis=1).std(ddof=1) / math.sqrt(len(coverage))
    low = np.percentile(coverage, 10)
    reached = f"{coverage.mean():.1f} ± {error:.1f}"
    return (
        f"| {name} | {size} | {100 * (1 - alpha):g} | {exact:.1f} | {reached} | {low:.1f} | {found[:, -1].mean():.2f} |"
    )


def one_network(rng: np.random.Generator, size: int) -> list[Array]:
    network = learned(scans(rng, size))
    known, new = scans(rng, size), scans(rng, NEW)
    patients = [f"p{i}" for i in range(len(known.of))]
    return held(probabilities(network, known.x), known, patients, probabilities(network, new.x), new)


def five_folds(rng: np.random.Generator, size: int) -> list[Array]:
    known, new = scans(rng, size), scans(rng, NEW)
    fold = np.tile(np.arange(size) % FOLDS, CLASSES)
    networks = [learned(known.take(fold != k)) for k in range(FOLDS)]
    out_of_fold = np.empty((len(known.of), CLASSES))
    for k, network in enumerate(networks):
        out_of_fold[fold == k] = probabilities(network, known.x[fold == k])
    together = np.mean([probabilities(network, new.x) for network in networks], axis=0)
    return held(out_of_fold, known, [f"p{i}" for i in range(len(known.of))], together, new)


def several_scans(rng: np.random.Generator, size: int) -> list[Array]:
    network = learned(scans(rng, size))
    known, new = (scans(rng, n, SCANS_PER_PATIENT) for n in (size, NEW))
    patients = [f"p{i // SCANS_PER_PATIENT}" for i in range(len(known.of))]
    return held(probabilities(network, known.x), known, patients, probabilities(network, new.x), new)


DESIGNS = {"one network": one_network, "five folds": five_folds, "three scans a patient": several_scans}


def scans(rng: np.random.Generator, patients: int, per_patient: int = 1) -> Scans:
    """Scans of a number of patients per class; a patient's scans are adjacent."""
    of = np.repeat(np.arange(CLASSES), patients * per_patient)
    x = rng.normal(size=(len(of), FEATURES))
    if per_patient > 1:
        own = rng.normal(size=(CLASSES * patients, FEATURES)).repeat(per_patient, axis=0)
        x = math.sqrt(SHARED) * own + math.sqrt(1 - SHARED) * x
    return Scans(x + MEANS[of], of)


def learned(known: Scans) -> Array:
    """The mean of each class [class, feature]."""
    return np.stack([known.x[known.of == c].mean(axis=0) for c in range(CLASSES)])


def probabilities(means: Array, x: Array) -> Array:
    return softmax(x @ means.T - (means**2).sum(axis=1) / 2, axis=1)


def held(calibration: Array, known: Scans, patients: list[str], found: Array, new: Scans) -> list[Array]:
    """For each alpha, the coverage of every class and the mean set size among new scans."""
    truth, results = np.eye(CLASSES, dtype=bool)[known.of], []
    for alpha in ALPHAS:
        members = fit_prediction_sets(calibration, truth, patients, 1 - alpha).contains(found)
        coverage = [members[new.of == c, c].mean() for c in range(CLASSES)]
        results.append(np.array([*coverage, members.sum(axis=1).mean()]))
    return results


if __name__ == "__main__":
    main()
