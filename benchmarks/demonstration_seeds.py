"""The demonstration with other phantoms and other random numbers: how often its gain holds.

    OMP_NUM_THREADS=1 python benchmarks/demonstration_seeds.py 11 12 13 14 15 --out /tmp/seeds

Each seed has its own patients, random weights and augmentation. Minutes per seed; resumes after a kill.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from med_transfer.api import demonstration
from med_transfer.metrics.records.estimate import Estimate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--few", type=int, nargs=3, metavar=("TRAIN", "VAL", "ALL"), help="target patients per class")
    parser.add_argument("--epochs", type=int, help="of the network from scratch, without early stopping")
    arguments = parser.parse_args()
    change_target(arguments.few, arguments.epochs)
    shipped, config = demonstration.TARGET, demonstration.TARGET_CONFIG
    print("| seed | transferred | handcrafted | over handcrafted | over scratch | balanced | verdict | s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for seed in arguments.seeds:
        demonstration.TARGET = shipped.model_copy(update={"seed": 10 * seed + 2})
        demonstration.TARGET_CONFIG = config.model_copy(update={"seed": seed})
        print(row(seed, arguments.out / str(seed)), flush=True)


def change_target(few: list[int] | None, epochs: int | None) -> None:
    """Other numbers of patients for training and evaluation; another budget for the network from scratch."""
    if few:
        parts = {"train_val_patients": tuple(few[:2]), "patients_per_class": few[2]}
        demonstration.TARGET = demonstration.TARGET.model_copy(update=parts)
    if epochs:
        training = demonstration.TARGET_CONFIG.training.model_copy(update={"epochs": epochs, "patience": epochs})
        demonstration.TARGET_CONFIG = demonstration.TARGET_CONFIG.model_copy(update={"training": training})


def row(seed: int, out: Path) -> str:
    started = time.process_time()
    metrics = demonstration.transfer_against_scratch(out).metrics
    handcrafted, gain = metrics.baselines["handcrafted"], metrics.transfer_gain
    assert gain is not None
    cells = (
        seed,
        interval(metrics.macro_auc),
        interval(handcrafted.macro_auc),
        interval(handcrafted.macro_auc_gain, "+"),
        interval(gain.macro_auc, "+"),
        interval(gain.balanced_sensitivity, "+"),
        gain.verdict,
        f"{time.process_time() - started:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def interval(estimate: Estimate, sign: str = "") -> str:
    if estimate.value is None or estimate.ci95 is None:
        return "undefined"
    low, high = estimate.ci95
    return f"{estimate.value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


if __name__ == "__main__":
    main()
