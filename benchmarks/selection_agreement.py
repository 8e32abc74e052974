"""Does the order of ``med-transfer select`` foretell what is best after training? From label_efficiency.py's answers.

For each task, number of labels and split, the candidates are measured on the training cases alone, as ``select``
does it, and ranked by each measure and by the rule of the product. The truth is the macro AUC on the test cases: of the
linear probe (``frozen``), and of the fine-tuned network where every candidate was fine-tuned (``fine-tuned``).

    python benchmarks/selection_agreement.py --prepared lidc.npz --out OUT
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
from label_efficiency import frozen_features
from label_efficiency_report import DEFAULT, macro_auc
from lidc_crops import TASKS, Crops, few, load, split
from scipy.stats import kendalltau

from med_transfer.labels import Labels
from med_transfer.transfer.choice import Contender, in_order
from med_transfer.transfer.hscore import regularised_h_score
from med_transfer.transfer.leep import n_leep
from med_transfer.transfer.logme import log_me
from med_transfer.transfer.probes import linear_probe, nearest_neighbours, patient_folds
from med_transfer.transfer.transrate import trans_rate

FINE_TUNED = {"random": "scratch", "small": DEFAULT, "astra": "astra-layerwise_lr_decay", "lite0": "lite0-attention"}
COST = {"random": 1.0, "small": 1.0, "lite0": 2.0, "astra": 14.0}  # relative; only for ties
SCORES: dict[str, Callable] = {
    "LogME": log_me, "H-score": regularised_h_score, "N-LEEP": n_leep, "TransRate": trans_rate,
}  # fmt: skip


def measured(crops: Crops, task: str, cases: np.ndarray, table: np.ndarray, name: str) -> tuple[dict, Contender]:
    """Every measure of one candidate on the training cases, and what the product's rule looks at."""
    labels, truth = Labels(TASKS[task]), np.eye(len(TASKS[task]), dtype=bool)[crops.labels[task][cases]]
    patients = [str(patient) for patient in crops.patients[cases]]
    folds = patient_folds(truth, patients)
    x = table[cases].astype(np.float64)
    probe = linear_probe(x, truth, patients, folds, labels)
    neighbours = nearest_neighbours(x, truth, patients, folds, labels)
    found = {"linear probe": probe.macro_auc, "k-NN": neighbours.macro_auc}
    found |= {score: measure(x, crops.labels[task][cases]) for score, measure in SCORES.items()}
    return found, Contender(name, probe.macro_auc, probe.standard_error, found["LogME"], COST[name])


def test_auc(crops: Crops, folder: Path, task: str, n: int, number: int, arm: str) -> float | None:
    file = folder / f"{task}_{n}_{number}_{arm}.npz"
    if not file.exists():
        return None
    _, test = split(crops, number)
    scores = np.load(file)["probabilities"]
    return float(macro_auc(crops.labels[task][test], scores, np.ones((1, len(test))))[0])


def agreement(scores: dict[str, float], truth: dict[str, float]) -> tuple[float, float]:
    """Kendall's tau-b, and the macro AUC that the first choice misses."""
    names = list(truth)
    tau = np.asarray(kendalltau([scores[name] for name in names], [truth[name] for name in names]))[0]
    chosen = max(names, key=lambda name: scores[name])
    return float(tau), max(truth.values()) - truth[chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--out", type=Path, default=Path("label_efficiency"))
    parser.add_argument("--candidates", nargs="+", default=list(COST))
    arguments = parser.parse_args()
    crops, folder = load(arguments.prepared), arguments.out / "answers"
    tables = {name: frozen_features(crops, name, None, arguments.out) for name in arguments.candidates}
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    first: Counter[str] = Counter()
    for task, n, number in product(TASKS, (10, 30, 100), range(5)):
        training, _ = split(crops, number)
        cases = few(crops, task, n, training, number)
        each = {name: measured(crops, task, cases, table, name) for name, table in tables.items()}
        order = [contender.name for contender in in_order([one for _, one in each.values()], len(cases))]
        first[order[0]] += 1
        scores = {key: {name: one[0][key] for name, one in each.items()} for key in next(iter(each.values()))[0]}
        scores["rule of select"] = {name: -float(order.index(name)) for name in order}
        arms = {"frozen": {name: f"probe-{name}" for name in tables}, "fine-tuned": FINE_TUNED}
        for kind, of in arms.items():
            aucs = {name: test_auc(crops, folder, task, n, number, arm) for name, arm in of.items() if name in tables}
            known = {name: auc for name, auc in aucs.items() if auc is not None}
            if len(known) == len(aucs):
                for key, values in scores.items():
                    found.setdefault((kind, key), []).append(agreement(values, known))
    print("First by the rule of select:", ", ".join(f"{name} in {count} cells" for name, count in first.most_common()))
    print("| truth | ranked by | cells | Kendall tau, mean | regret of the first choice, mean (worst) |")
    print("|---|---|---|---|---|")
    for (kind, key), cells in found.items():
        tau, regret = np.array(cells).T
        print(f"| {kind} | {key} | {len(cells)} | {np.nanmean(tau):.2f} | {regret.mean():.3f} ({regret.max():.3f}) |")


if __name__ == "__main__":
    main()
