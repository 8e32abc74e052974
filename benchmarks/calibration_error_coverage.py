"""Coverage of the 95 % interval of the expected calibration error, by simulation.

    OMP_NUM_THREADS=1 python benchmarks/calibration_error_coverage.py > coverage.md

Two classes; log odds are normal with standard deviation 1.5, and the outcome follows ``slope`` times the log odds, so
that 1 is perfect calibration and below 1 the network is overconfident. With several scans per patient, all of a
patient's scans have the same log odds and outcome. The truth is the error over a million scans. The plain percentile
interval of the same draws is given for comparison. Prints Markdown.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from med_transfer.metrics.calibration import bin_excess, calibration_error_interval
from med_transfer.metrics.intervals import PatientBootstrap, percentile_interval

SIZES, SLOPES, MANY = (10, 20, 30, 50, 200, 1000), (1.0, 0.8, 0.6, 0.3), 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| patients | scans a patient | slope | true error | covered, % | width | percentile covered, % |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        for scans_per_patient in (1, 3):
            for slope in SLOPES:
                print(row(size, scans_per_patient, slope, arguments), flush=True)


def row(size: int, scans_per_patient: int, slope: float, arguments: argparse.Namespace) -> str:
    rng = np.random.default_rng([arguments.seed, size, scans_per_patient, round(100 * slope)])
    truth = 0.0 if slope == 1 else error(*claims(rng, MANY, slope))
    patients = [f"p{i // scans_per_patient:04d}" for i in range(size * scans_per_patient)]
    held, plain, widths = 0, 0, []
    for sample in range(arguments.samples):
        of_patients = claims(rng, size, slope)
        claimed, came_true = of_patients[0].repeat(scans_per_patient), of_patients[1].repeat(scans_per_patient)
        bootstrap = PatientBootstrap(patients, arguments.resamples, sample)
        low, high = calibration_error_interval(claimed, came_true, bootstrap)
        held += low <= truth <= high
        widths.append(high - low)
        plain += within(truth, claimed, came_true, bootstrap)
    share, other = (100 * count / arguments.samples for count in (held, plain))
    width = np.median(widths)
    return f"| {size} | {scans_per_patient} | {slope} | {truth:.3f} | {share:.1f} | {width:.3f} | {other:.1f} |"


def claims(rng: np.random.Generator, n: int, slope: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    log_odds = rng.normal(0, 1.5, n)
    return expit(log_odds), rng.random(n) < expit(slope * log_odds)


def error(claimed: NDArray[np.float64], came_true: NDArray[np.bool_]) -> float:
    return float(np.abs(bin_excess(claimed, came_true).mean(axis=0)).sum())


def within(
    truth: float, claimed: NDArray[np.float64], came_true: NDArray[np.bool_], bootstrap: PatientBootstrap
) -> bool:
    """Whether the plain percentile interval contains the truth."""
    excess = bin_excess(claimed, came_true)
    draws = bootstrap.distribution(lambda weights: np.abs(weights @ excess).sum(axis=1) / weights.sum(axis=1))
    interval = percentile_interval(draws)
    return interval is not None and interval[0] <= truth <= interval[1]


if __name__ == "__main__":
    main()
