"""How strongly should priors shrink temperature and bias with few scans? The spreads of the priors, on nodules.

    python benchmarks/label_savings.py --prepared lidc.npz --out OUT
    OMP_NUM_THREADS=1 python benchmarks/calibration_spreads.py --prepared lidc.npz --out OUT

Uses the answers of ``label_savings.py`` for its test cases, over all arms, tasks and numbers of labels. Some of these
cases' patients are drawn, the calibration is fitted on their scans with the prior of their classes, and its log loss
is measured on the others. Prints Markdown: the mean over tasks, numbers of labels, splits and draws.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from label_savings import SPLITS
from lidc_crops import TASKS, Crops, load, split_apart

from med_transfer.model.calibration import fitting, log_prior_ratio

ARMS = ("scratch", "default", "frozen", "handcrafted", "astra")
PATIENTS, DRAWS = (20, 40, 80), 6
SPREADS = ((0.001, 0.001), (0.25, 0.2), (0.25, 0.35), (0.5, 0.2), (0.5, 0.35), (0.5, 0.7), (0.7, 1.0), (1.0, 2.0))


def losses(crops: Crops, file: Path, task: str, split: int) -> dict[tuple[int, tuple[float, float]], list[float]]:
    """Log losses by number of patients drawn and spreads; draws that lack a class are left out."""
    _, _, test = split_apart(crops, split)
    truth = np.eye(len(TASKS[task]), dtype=bool)[crops.labels[task][test]]
    logits = np.log(np.clip(np.load(file)["probabilities"].astype(np.float64), 1e-4, 1))
    found, random = defaultdict(list), np.random.default_rng(split)
    for n in np.repeat(PATIENTS, DRAWS):
        drawn = np.isin(crops.patients[test], random.permutation(np.unique(crops.patients[test]))[:n])
        if not truth[drawn].any(0).all():
            continue
        prior = log_prior_ratio(truth[drawn].mean(0), multilabel=False)
        for spreads in SPREADS:
            fitting.SPREAD_OF_LOG_TEMPERATURE, fitting.SPREAD_OF_BIAS = spreads
            fitted = fitting.fit_temperature(logits[drawn], truth[drawn], prior, multilabel=False)
            said = fitted.probabilities(logits[~drawn], multilabel=False)
            found[int(n), spreads].append(-float(np.log(np.clip(said[truth[~drawn]], 1e-6, 1)).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    crops = load(arguments.prepared)
    print("| arm | patients |", " | ".join(f"{t:g}, {b:g}" for t, b in SPREADS), "|")
    print("| -- " * (len(SPREADS) + 2) + "|")
    for arm in ARMS:
        of_arm = defaultdict(list)
        for task in TASKS:
            for split in SPLITS:
                for file in sorted((arguments.out / "answers").glob(f"{task}_*_{split}_{arm}*.npz")):
                    for key, values in losses(crops, file, task, split).items():
                        of_arm[key] += values
        for n in PATIENTS:
            print(f"| {arm} | {n} |", " | ".join(f"{np.mean(of_arm[n, one]):.3f}" for one in SPREADS), "|", flush=True)


if __name__ == "__main__":
    main()
