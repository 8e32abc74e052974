"""Coverage of the 95 % intervals of ``labels budget``, on simulated cohorts with known truth.

Patients of two classes in equal shares have 30 features; in each class five of its own are raised by ``SHIFT`` standard
deviations. The truth is the mean performance of the same probe trained on many other patients and tested on 3,000, and
the law fitted to it. The question put to ``labels budget`` is what the law reaches with 2.5 times the available
training patients.

    OMP_NUM_THREADS=1 python benchmarks/label_budget_coverage.py --patients 60 120 --cohorts 100
"""

from __future__ import annotations

import argparse

import numpy as np
from threadpoolctl import threadpool_limits

from med_transfer.labelling.curve_samples import Measure, SubsetPredictions, curve_samples
from med_transfer.labelling.label_forecast import Forecast, forecast
from med_transfer.labelling.learning_curve import PowerLaw, fit_power_law
from med_transfer.labelling.probe_curve import CurvePlan, probe_curve
from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.metrics.rates import weighted_rates
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels
from med_transfer.selection.probes import predict_by_probe

FEATURES, SHIFT, SMALLEST, MULTIPLE, FOLDS = 30, 0.5, 5, 2.5, 5
LABELS = Labels(("a", "b"))
MEASURES: tuple[Measure, ...] = ("macro_auc", "sensitivity")


def patients(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features [patient, feature] and truth [patient, class]."""
    classes = rng.permutation(np.arange(n) % 2)
    features = rng.normal(size=(n, FEATURES))
    for number, own in enumerate(classes):
        features[number, 5 * own : 5 * own + 5] += SHIFT
    return features, np.eye(2, dtype=bool)[classes]


def true_laws(largest: int) -> dict[Measure, PowerLaw]:
    """The probe's mean performance, by the number of training patients."""
    rng = np.random.default_rng(99)
    unseen, truth = patients(3000, rng)
    sizes = np.unique(np.geomspace(SMALLEST, largest, 12).astype(int))
    reached = np.array([[_performance(size, unseen, truth, rng) for _ in range(150)] for size in sizes])
    errors = np.maximum(reached.std(axis=1) / np.sqrt(150), 1e-4)
    return {
        measure: fit_power_law(sizes.astype(float), np.maximum.accumulate(reached.mean(axis=1)[:, k]), errors[:, k])
        for k, measure in enumerate(MEASURES)
    }


def _performance(size: int, unseen: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    features, own = patients(size, rng)
    learn = np.arange(size + len(unseen)) < size
    answer = predict_by_probe(np.vstack([features, unseen]), np.vstack([own, truth]), learn, ~learn, LABELS)
    predicted, once = OperatingPoint.default(LABELS).predictions(answer, LABELS), np.ones((1, len(truth)))
    sensitivity = weighted_rates(truth, predicted, once)["sensitivity"].mean()
    return float(weighted_macro_auc(truth, answer, once)[0]), float(sensitivity)


def measured(n: int, seed: int, repeats: int) -> SubsetPredictions:
    """The predictions that ``labels budget`` measures on one cohort."""
    features, truth = patients(n, np.random.default_rng((7, seed)))
    names = [f"p{number}" for number in range(n)]
    return probe_curve(features, truth, names, LABELS, CurvePlan(SMALLEST, 6, repeats, FOLDS, seed))


def held(found: Forecast, now: float) -> tuple[bool, bool, bool, float]:
    """Coverage of current performance and number of patients; whether the latter is bounded; width of the former."""
    assert found.now is not None
    assert found.interval is not None
    (_, low, high), (least, most) = found.now, found.interval
    more = (MULTIPLE - 1) * found.samples.labelled
    holds = least is not None and least <= more and (most is None or more <= most)
    return low <= now <= high, holds, most is not None, high - low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", nargs="+", type=int, default=[60, 120])
    parser.add_argument("--cohorts", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    print("| patients | measure | current covered | number covered | number bounded | width, current | intervals |")
    print("| -- | -- | -- | -- | -- | -- | -- |")
    with threadpool_limits(1):
        laws = true_laws(round(5 * max(arguments.patients)))
        for n in arguments.patients:
            cohorts = [measured(n, seed, arguments.repeats) for seed in range(arguments.cohorts)]
            present = n * (FOLDS - 1) / FOLDS
            for measure in MEASURES:
                now, target = (float(laws[measure].at(present * multiple)) for multiple in (1, MULTIPLE))
                rows = [
                    held(forecast(curve, target), now)
                    for seed, predictions in enumerate(cohorts)
                    for curve in curve_samples(predictions, measure, 200, seed)
                ]
                shares = [f"{100 * share:.0f} %" for share in np.mean([row[:3] for row in rows], axis=0)]
                width = np.median([row[3] for row in rows])
                print("|", " | ".join([str(n), measure, *shares, f"{width:.2f}", str(len(rows))]), "|", flush=True)


if __name__ == "__main__":
    main()
