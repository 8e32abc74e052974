"""Tables of ``label_savings.py``, of the numbers of labels whose five splits are all there.

    python benchmarks/label_savings_report.py --prepared lidc.npz --out OUT

Means over the splits; intervals are 95 %, from 2,000 bootstrap draws of patients, the same draw in every split.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from label_efficiency_report import Figure, auc_of_class, drawn_patients, macro_auc, sensitivity, with_interval
from label_savings import MAX_STEPS, NETWORKS, SPLITS, Cell, best_rate
from lidc_crops import TASKS, Crops, few, load, split_apart

LABELS = (10, 30, 100, 0)
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


@dataclass(frozen=True)
class Answers:
    """Probabilities of the test cases by (arm, task, n), a list over the splits; None unless every split is there."""

    crops: Crops
    folder: Path

    @cached_property
    def weights(self) -> np.ndarray:
        return drawn_patients(int(self.crops.patients.max()) + 1)

    def files(self, arm: str, task: str, n: int) -> list[Path]:
        if arm not in NETWORKS:
            return [self.folder / f"{task}_{n or 'all'}_{number}_{arm}.npz" for number in SPLITS]
        rate = best_rate(self.folder, arm, n) or 0.0
        return [self.folder / Cell(arm, task, n, number, rate, MAX_STEPS[n]).file for number in SPLITS]

    def of(self, arm: str, task: str, n: int) -> list[np.ndarray] | None:
        files = [self.files(part, task, n) for part in arm.split(" + ")]
        if not all(file.exists() for part in files for file in part):
            return None
        each = [[np.load(file)["probabilities"] for file in part] for part in files]
        return [np.mean(parts, axis=0) for parts in zip(*each, strict=True)]

    def measured(self, arm: str, task: str, n: int, figure: Figure = macro_auc) -> np.ndarray | None:
        """Mean over the splits, [1 + replicate]: the figure, then each draw."""
        if (answers := self.of(arm, task, n)) is None:
            return None
        each = []
        for number, probabilities in zip(SPLITS, answers, strict=True):
            _, _, test = split_apart(self.crops, number)
            truth, patients = self.crops.labels[task][test], self.crops.patients[test]
            each.append(figure(truth, probabilities, self.weights[:, patients]))
        return np.nanmean(each, axis=0)

    def mean_labels(self, task: str) -> float:
        """Training cases a class when all are used."""
        counts = [len(few(self.crops, task, 0, split_apart(self.crops, number)[0], number)) for number in SPLITS]
        return float(np.mean(counts)) / len(TASKS[task])


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def columns() -> list[str]:
    return [f"{n}" if n else "all" for n in LABELS]


def auc_table(answers: Answers) -> str:
    rows = []
    for task, arm in product(TASKS, ARMS):
        values = [answers.measured(arm, task, n) for n in LABELS]
        rows.append([task, arm, *("" if v is None else with_interval(v) for v in values)])
    return table(["task", "arm", *columns()], rows)


def difference_table(answers: Answers) -> str:
    rows = []
    for task, (one, other) in product(TASKS, PAIRS):
        cells = []
        for n in LABELS:
            both = answers.measured(one, task, n), answers.measured(other, task, n)
            cells.append("" if both[0] is None or both[1] is None else with_interval(both[0] - both[1], sign=True))
        rows.append([task, f"{one} minus {other}", *cells])
    return table(["task", "difference", *columns()], rows)


def saving_table(answers: Answers, arm: str = "default", base: str = "scratch") -> str:
    """How many labels the base needs for what the arm reaches, interpolated in the logarithm of the labels."""
    rows = []
    for task in TASKS:
        labels = [n or answers.mean_labels(task) for n in LABELS]
        curve = [answers.measured(base, task, n) for n in LABELS]
        for n in LABELS[:-1]:
            reached = answers.measured(arm, task, n)
            if reached is None or any(values is None for values in curve):
                continue
            rising = np.maximum.accumulate(np.array(curve), axis=0)
            needed = np.array([needed_labels(*pair, labels) for pair in zip(reached, rising.T, strict=True)]) / n
            low, high = np.percentile(needed[1:], [2.5, 97.5])
            most = labels[-1] / n
            shown = [f"more than {x:.1f}" if x > most else f"{x:.1f}" for x in (needed[0], low, high)]
            rows.append([task, str(n), f"{shown[0]} [{shown[1]}, {shown[2]}]"])
    return table(["task", f"{arm} with", f"times as many that {base} needs"], rows)


def needed_labels(reached: float, rising: np.ndarray, labels: list[float]) -> float:
    """Beyond the last point: just above the most labels, as no more is known."""
    if reached > rising[-1]:
        return labels[-1] * 1.0001
    return float(np.exp(np.interp(reached, rising, np.log(labels))))


def class_table(answers: Answers, figure_of: Callable[[int], Figure], name: str) -> str:
    rows = []
    for task, n, arm in product(TASKS, LABELS, ("scratch", "default", "default + handcrafted")):
        values = [answers.measured(arm, task, n, figure_of(c)) for c in range(3)]
        cells = [f"{c} {with_interval(v)}" for c, v in zip(TASKS[task], values, strict=True) if v is not None]
        rows += [[task, str(n or "all"), arm, *cells]] if cells else []
    return table(["task", "labels", "arm", *(f"{name}" for _ in range(3))], rows)


def training_table(answers: Answers) -> str:
    """Rates tried, figures of the tuning patients, and when the trainings had their best look."""
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
    arguments = parser.parse_args()
    answers = Answers(load(arguments.prepared), arguments.out / "answers")
    sections = {
        "Macro AUC": auc_table(answers),
        "Differences of the macro AUC": difference_table(answers),
        "Labels saved": saving_table(answers),
        "Trainings": training_table(answers),
        "Sensitivity of each class": class_table(answers, sensitivity, "sensitivity"),
        "AUC of each class against the rest": class_table(answers, auc_of_class, "AUC"),
    }
    print("\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()))


if __name__ == "__main__":
    main()
