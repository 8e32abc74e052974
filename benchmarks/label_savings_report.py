"""Tables of ``label_savings.py``, for the numbers of labels whose splits are all available.

    python benchmarks/label_savings_report.py --prepared lidc.npz --out OUT

Means over the splits; intervals are 95 %, from 2,000 bootstrap draws of patients, the same draw in every split.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from label_efficiency_report import (
    LABELS,
    Answers,
    auc_of_class,
    auc_table,
    class_table,
    difference_table,
    drawn_patients,
    macro_auc,
    mean_labels,
    sensitivity,
)
from label_savings import MAX_STEPS, NETWORKS, SPLITS, Cell, best_rate
from lidc_crops import TASKS, load, split_apart

ARMS = ("scratch", "default", "frozen", "astra", "handcrafted", "default + handcrafted")
PAIRS = (
    ("default", "scratch"),
    ("default", "frozen"),
    ("default", "handcrafted"),
    ("default + handcrafted", "handcrafted"),
    ("default + handcrafted", "default"),
    ("frozen", "scratch"),
    ("frozen", "astra"),
    ("handcrafted", "scratch"),
)


class OwnBudgets(Answers):
    """Networks at their chosen rate; splits that exclude the tuning patients."""

    def files(self, arm: str, task: str, n: int) -> list[Path]:
        if arm not in NETWORKS:
            return super().files(arm, task, n)
        rate = best_rate(self.folder, arm, n) or 0.0
        return [self.folder / Cell(arm, task, n, number, rate, MAX_STEPS[n]).file for number in self.splits]

    def cases(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        training, _, test = split_apart(self.crops, number)
        return training, test

    def macro_auc(self, arm: str, task: str, n: int) -> np.ndarray | None:
        """Macro AUC [1 + replicate]; None unless every split is available."""
        answers = self.of(arm, task, n)
        return None if answers is None else self.measured(task, answers, macro_auc)


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def saving_table(answers: OwnBudgets, arm: str = "default", base: str = "scratch") -> list[str]:
    """Labels that the base needs to match the arm, interpolated in the logarithm of the number of labels."""
    rows = []
    for task in TASKS:
        labels = [n or mean_labels(answers, task) for n in LABELS]
        curve = [answers.macro_auc(base, task, n) for n in LABELS]
        for n in LABELS[:-1]:
            reached = answers.macro_auc(arm, task, n)
            if reached is None or any(values is None for values in curve):
                continue
            rising = np.maximum.accumulate(np.array(curve), axis=0)
            needed = np.array([needed_labels(*pair, labels) for pair in zip(reached, rising.T, strict=True)]) / n
            low, high = np.percentile(needed[1:], [2.5, 97.5])
            most = labels[-1] / n
            shown = [f"more than {x:.1f}" if x > most else f"{x:.1f}" for x in (needed[0], low, high)]
            rows.append([task, str(n), f"{shown[0]} [{shown[1]}, {shown[2]}]"])
    return table(["task", f"{arm} with", f"times as many that {base} needs"], rows)


def fewer_labels_table(answers: OwnBudgets, arm: str = "default", base: str = "scratch") -> list[str]:
    """The arm's result with some labels, minus the base's with the next larger number of labels."""
    rows = []
    for task, (few, more) in product(TASKS, pairwise(sorted(LABELS, key=lambda n: n or np.inf))):
        reached, other = answers.macro_auc(arm, task, few), answers.macro_auc(base, task, more)
        if reached is not None and other is not None:
            low, high = np.percentile((reached - other)[1:], [2.5, 97.5])
            rows.append([task, str(few), str(more or "all"), f"{(reached - other)[0]:+.3f} [{low:+.3f}, {high:+.3f}]"])
    return table(["task", f"{arm} with", f"{base} with", "difference of the macro AUC"], rows)


def needed_labels(reached: float, rising: np.ndarray, labels: list[float]) -> float:
    """Labels needed; beyond the last point just above the most labels, as no more is known."""
    if reached > rising[-1]:
        return labels[-1] * 1.0001
    return float(np.exp(np.interp(reached, rising, np.log(labels))))


def training_table(answers: OwnBudgets) -> list[str]:
    """Rates tried, figures of the tuning patients, and the step of the best look."""
    rows = []
    for arm, n in product(NETWORKS, LABELS):
        rate = best_rate(answers.folder, arm, n)
        files = [file for task in TASKS for file in answers.files(arm, task, n) if file.exists()]
        if rate and files:
            runs = [np.load(file) for file in files]
            steps = sorted(int(run["best_step"]) for run in runs)
            seconds = np.median([float(run["seconds"]) for run in runs])
            rows.append(
                [
                    arm,
                    str(n or "all"),
                    f"{rate:g}",
                    str(MAX_STEPS[n]),
                    f"{steps[0]} to {steps[-1]}, median {int(np.median(steps))}",
                    f"{seconds:.0f}",
                    str(len(runs)),
                ]
            )
    return table(["arm", "labels", "rate", "most steps", "best step", "seconds", "runs"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--out", type=Path, default=Path("label_savings"))
    parser.add_argument("--splits", nargs="+", type=int, default=list(SPLITS), help="if not all were trained")
    arguments = parser.parse_args()
    crops = load(arguments.prepared)
    weights = drawn_patients(int(crops.patients.max()) + 1)
    answers = OwnBudgets(crops, arguments.out / "answers", tuple(arguments.splits), weights)
    compared = ("scratch", "default", "default + handcrafted")
    sections = {
        "Macro AUC": auc_table(answers, ARMS),
        "Differences of the macro AUC": difference_table(answers, PAIRS),
        "Labels saved": saving_table(answers),
        "Fewer labels against more": fewer_labels_table(answers),
        "Trainings": training_table(answers),
        "Sensitivity of each class": class_table(answers, compared, "sensitivity", sensitivity),
        "AUC of each class against the rest": class_table(answers, compared, "AUC", auc_of_class),
    }
    print("\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()))


if __name__ == "__main__":
    main()
