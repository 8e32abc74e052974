"""What balanced training does to probabilities, and how calibration corrects it: by simulation, and on a run.

    OMP_NUM_THREADS=1 python benchmarks/balanced_probabilities.py simulate
    OMP_NUM_THREADS=1 python benchmarks/balanced_probabilities.py run RUN COHORT.csv CACHE

``before`` is the calibration of earlier versions: one temperature, fitted to truth smoothed by one pseudo-scan per
class, without a prior. ``now`` is the current one. In the simulation a scan's logits are those of a network trained on
equally frequent classes and overconfident by a factor of two; the class shares are 7, 8 and 85 % (as for nodule texture
in LIDC); the fitted calibration is evaluated on 20,000 new scans. ``run`` takes a finished run of one fold,
recalibrates its network on the run's validation scans and evaluates both calibrations on its test scans; CACHE stores
the network's inputs. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from med_transfer.bundle import load_network, read_record
from med_transfer.cohorts import Cohort, prepare_cohort
from med_transfer.metrics import measures
from med_transfer.metrics.calibration import brier, calibration
from med_transfer.metrics.decision_curve import benefit_by_scan
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.model.calibration import log_prior_ratio
from med_transfer.model.calibration.calibrators import TemperatureScaling
from med_transfer.model.calibration.fitting import fit
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.preprocessing import Preprocessing

SHARES, SEPARATION, TOO_SURE = np.array([0.07, 0.08, 0.85]), 1.5, 2.0
COST_OF_A_MISS = 10.0  # for a rare class; a false alarm costs 1


def before(logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> TemperatureScaling:
    """Temperature scaling of earlier versions."""
    target = (len(truth) * truth + 1) / (len(truth) + truth.shape[1])

    def loss(log_temperature: float) -> float:
        return -float((target * log_softmax(logits / np.exp(log_temperature), axis=1)).sum())

    limits = (float(np.log(0.05)), float(np.log(20)))
    best = minimize_scalar(loss, bounds=limits, method="bounded")
    return TemperatureScaling(temperature=float(np.exp(best.x)))  # pyright: ignore[reportAttributeAccessIssue]


def now(logits: NDArray[np.float64], truth: NDArray[np.bool_], shares: NDArray[np.float64]) -> TemperatureScaling:
    """The current temperature scaling; ``shares`` are those of the development scans."""
    fitted = fit("temperature", logits, truth, log_prior_ratio(shares, multilabel=False), multilabel=False)
    assert isinstance(fitted, TemperatureScaling)
    return fitted


def applied(calibrator: TemperatureScaling, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return calibrator.probabilities(logits, multilabel=False)


def costs(probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Cost per scan of the cheapest calls, as expected from the probabilities and as incurred."""
    common = truth.sum(axis=0).argmax()
    matrix = np.ones((truth.shape[1],) * 2)
    matrix[np.arange(len(matrix)) != common] = COST_OF_A_MISS
    np.fill_diagonal(matrix, 0)
    expected = probabilities @ matrix
    calls = expected.argmin(axis=1)
    return float(expected.min(axis=1).mean()), float(matrix[truth.argmax(axis=1), calls].mean())


def simulate(draws: int, seed: int) -> None:
    """Both calibrations with few and with many validation scans."""
    print("| validation scans | calibration | temperature, 10th to 90th percentile | log loss above the minimum |")
    print("| -- | -- | -- | -- |")
    rows = []
    for n in (20, 40, 75, 150, 300, 1000):
        figures: dict[str, list] = {"none": [], "before": [], "now": []}
        for draw in range(draws):
            random = np.random.default_rng([seed, n, draw])
            logits, truth = made_up(random, n)
            new, new_truth = made_up(random, 20_000)
            least = log_loss(softmax(new / TOO_SURE + np.log(SHARES), axis=1), new_truth)
            drawn = truth.mean(axis=0) if truth.any(axis=0).all() else (truth.sum(axis=0) + 1) / (n + 3)
            of = {
                "none": TemperatureScaling(temperature=1),
                "before": before(logits, truth),
                "now": now(logits, truth, drawn),
            }
            for name, calibrator in of.items():
                p = applied(calibrator, new)
                promised, paid = costs(p, new_truth)
                off = np.log(new_truth.mean(0) / (1 - new_truth.mean(0))) - np.log(p.mean(0) / (1 - p.mean(0)))
                figures[name].append([calibrator.temperature, log_loss(p, new_truth) - least, promised, paid, *off])
        for name, values in figures.items():
            v = np.array(values)
            low, high = np.percentile(v[:, 0], (10, 90))
            print(f"| {n} | {name} | {low:.2f} to {high:.2f} | {v[:, 1].mean():.3f} |")
            spread = ", ".join(f"{a:+.2f} ± {s:.2f}" for a, s in zip(v[:, 4:].mean(0), v[:, 4:].std(0), strict=True))
            rows.append(f"| {n} | {name} | {spread} | {v[:, 2].mean():.3f} | {v[:, 3].mean():.3f} |")
    print("\n| validation scans | calibration | log odds of share minus those of mean | expected cost | actual |")
    print("| -- | -- | -- | -- | -- |")
    print("\n".join(rows))


def made_up(random: np.random.Generator, n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    truth = np.eye(3, dtype=bool)[random.choice(3, n, p=SHARES)]
    return TOO_SURE * SEPARATION * (SEPARATION * truth + random.normal(size=truth.shape)), truth


def log_loss(probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    return float(-np.log(np.maximum(probabilities[truth], 1e-12)).mean())


def of_a_run(run: Path, table: Path, cache: Path) -> None:
    """Both calibrations of a run's network on its test scans."""
    record, network = read_record(run / "bundle"), load_network(run / "bundle")
    cohort = Cohort.read(table, labels=record.labels)
    prepared = prepare_cohort(cohort, Preprocessing(record.preprocessing), cache)
    logits = logits_of(network.fold_models[0], prepared.tensors)
    roles = {case["scan"]: case["role"] for case in json.loads((run / "cohort.lock.json").read_text())["cases"]}
    part = np.array([roles[case.scan] for case in prepared.cohort.cases])
    truth, patients = prepared.cohort.truth, np.array(prepared.cohort.patients)
    validation, test = part == "fold-0", part == "test"
    shares = truth[part != "test"].mean(axis=0)
    fitted = {
        "before": before(logits[validation], truth[validation]),
        "now": now(logits[validation], truth[validation], shares),
    }
    bootstrap, names = PatientBootstrap(patients[test].tolist()), record.labels.names
    for name, calibrator in fitted.items():
        p = applied(calibrator, logits[test])
        point = OperatingPoint.balanced(record.labels, calibrator.without_evidence(len(names), multilabel=False))
        scored = LabelledPredictions.of(truth[test], p, patients[test].tolist(), record.labels, point)
        found = calibration(scored, bootstrap)
        print(f"\n{name}: {calibrator}, bias {np.round(calibrator.bias, 2).tolist()}; macro AUC", end=" ")
        print(f"{shown(measures.macro_auc(scored))}; log loss {log_loss(p, truth[test]):.3f}")
        print(f"Brier score {shown(brier(scored, bootstrap))}; slope {shown(found.slope)}")
        print(f"expected and actual cost {costs(p, truth[test])}; balanced accuracy", end=" ")
        print(shown(measures.balanced_accuracy(scored)), end="\n\n")
        print("| class | share | mean | intercept | sensitivity | if most probable | net benefit at 5, 10, 20 % |")
        print("| -- | -- | -- | -- | -- | -- | -- |")
        for c, of_class in enumerate(names):
            has = truth[test][:, c]
            limits = np.array([0.05, 0.1, 0.2])
            benefit = (benefit_by_scan(has, limits) * (p[:, [c]] >= limits)).mean(axis=0)
            print(
                f"| {of_class} | {has.mean():.3f} | {p[:, c].mean():.3f} | "
                f"{shown(found.classes[of_class].intercept)} | {scored.predicted[has, c].mean():.2f} | "
                f"{(p[has].argmax(axis=1) == c).mean():.2f} | "
                f"{', '.join(f'{b:.3f}' for b in benefit)} |"
            )


@torch.inference_mode()
def logits_of(classifier: torch.nn.Module, tensors: list[NDArray]) -> NDArray[np.float64]:
    parts = [torch.from_numpy(np.stack(tensors[i : i + 32]).astype(np.float32)) for i in range(0, len(tensors), 32)]
    return torch.cat([classifier(x.contiguous(memory_format=torch.channels_last_3d)) for x in parts]).double().numpy()


def shown(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "none"
    low, high = estimate.ci95 or (np.nan, np.nan)
    return f"{estimate.value:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    simulation = commands.add_parser("simulate")
    simulation.add_argument("--draws", type=int, default=300)
    simulation.add_argument("--seed", type=int, default=0)
    of_run = commands.add_parser("run")
    for name in ("run", "cohort", "cache"):
        of_run.add_argument(name, type=Path)
    given = parser.parse_args()
    if given.command == "simulate":
        simulate(given.draws, given.seed)
    else:
        of_a_run(given.run, given.cohort, given.cache)


if __name__ == "__main__":
    main()
