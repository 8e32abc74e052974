"""Tables of the answers of ``label_efficiency.py`` so far: arms at equal and few steps.

    python benchmarks/label_efficiency_report.py --prepared lidc.npz --out OUT

Figures are means over the splits; intervals are 95 %, from 2,000 bootstrap draws of patients, with the same draw in
every split, so they hold for these splits of these patients. ``A + B`` is the mean of the probabilities of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from lidc_crops import TASKS, Crops, few, load, split
from lidc_strategies import TRANSFER

from med_transfer.metrics.auc import weighted_auc, weighted_macro_auc

REPLICATES = 2000
SPLITS = (0, 1, 2, 3, 4)
LABELS = (10, 30, 100, 0)
TOGETHER = " + "
DEFAULT = "small-layerwise_lr_decay"  # the default of med-transfer finetune
WITH_MASKS = ("diameter", "handcrafted")  # given the location and size of the nodule
PAIRS = (
    (DEFAULT, "scratch"),
    (DEFAULT, "small"),
    (DEFAULT, "probe-small"),
    (DEFAULT, "handcrafted"),
    (DEFAULT, "astra-layerwise_lr_decay"),
    (DEFAULT, "lite0-attention"),
    (f"{DEFAULT} + handcrafted", "handcrafted"),
    (f"{DEFAULT} + handcrafted", DEFAULT),
    ("small", "scratch"),
    ("small", "astra"),
    ("small", "handcrafted"),
    *((f"small-{strategy}", DEFAULT) for strategy in TRANSFER if f"small-{strategy}" != DEFAULT),
)
Figure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # truth, probabilities, weights -> [replicate]


@dataclass(frozen=True)
class Answers:
    """Probabilities of the test cases by (arm, task, n), a list over the splits; only if every split is available."""

    crops: Crops
    folder: Path
    splits: tuple[int, ...]
    weights: np.ndarray  # how often each patient is drawn, [1 + replicate, patient]; the first: each once

    def of(self, arm: str, task: str, n: int) -> list[np.ndarray] | None:
        parts = [self._one(part, task, n) for part in arm.split(TOGETHER)]
        found = [part for part in parts if part is not None]
        return [np.mean(each, axis=0) for each in zip(*found, strict=True)] if len(found) == len(parts) else None

    def files(self, arm: str, task: str, n: int) -> list[Path]:
        return [self.folder / f"{task}_{n or 'all'}_{number}_{arm}.npz" for number in self.splits]

    def cases(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Training cases and test cases of a split."""
        return split(self.crops, number)

    def _one(self, arm: str, task: str, n: int) -> list[np.ndarray] | None:
        files = self.files(arm, task, n)
        return [np.load(file)["probabilities"] for file in files] if all(file.exists() for file in files) else None

    def seconds(self, arm: str) -> float | None:
        files = sorted(self.folder.glob(f"*_{arm}.npz"))
        return float(np.median([np.load(file)["seconds"] for file in files])) if files else None

    def measured(self, task: str, probabilities: list[np.ndarray], figure: Figure) -> np.ndarray:
        """Mean over the splits, [1 + replicate]: the observed value, then each draw."""
        each = []
        for number, one in zip(self.splits, probabilities, strict=True):
            _, test = self.cases(number)
            each.append(figure(self.crops.labels[task][test], one, self.weights[:, self.crops.patients[test]]))
        return np.mean(each, axis=0)


def macro_auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One-vs-rest AUC, mean over classes, for many weightings at once."""
    return weighted_macro_auc(np.eye(scores.shape[1], dtype=bool)[truth], scores, weights)


def sensitivity(c: int) -> Figure:
    def figure(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        there = truth == c
        found = there & (scores.argmax(1) == c)
        with np.errstate(invalid="ignore", divide="ignore"):
            return weights[:, found].sum(1) / weights[:, there].sum(1)

    return figure


def auc_of_class(c: int) -> Figure:
    """AUC against all other classes: how well the class is separated, whatever its threshold."""

    def figure(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weighted_auc(truth == c, scores[:, c], weights)

    return figure


def drawn_patients(count: int) -> np.ndarray:
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=REPLICATES)
    return np.concatenate([np.ones((1, count)), draws])


def with_interval(values: np.ndarray, sign: bool = False) -> str:
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    form = "+.3f" if sign else ".3f"
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def auc_table(answers: Answers, arms: Iterable[str]) -> list[str]:
    lines = ["| task | arm | " + " | ".join(map(_label, LABELS)) + " |", f"|---|---|{'---|' * len(LABELS)}"]
    for task, arm in product(TASKS, arms):
        found = [answers.of(arm, task, n) for n in LABELS]
        if any(found):
            cells = [with_interval(answers.measured(task, one, macro_auc)) if one else "" for one in found]
            lines.append(f"| {task} | {arm} | {' | '.join(cells)} |")
    return lines


def class_table(answers: Answers, arms: Iterable[str], name: str, figure_of: Callable[[int], Figure]) -> list[str]:
    lines = [f"| task | labels a class | arm | {name} of each class |", "|---|---|---|---|"]
    for task, n, arm in product(TASKS, LABELS, arms):
        if found := answers.of(arm, task, n):
            each = [
                f"{name} {with_interval(answers.measured(task, found, figure_of(c)))}"
                for c, name in enumerate(TASKS[task])
            ]
            lines.append(f"| {task} | {n or 'all'} | {arm} | {', '.join(each)} |")
    return lines


def difference_table(answers: Answers, pairs: Iterable[tuple[str, str]]) -> list[str]:
    lines = ["| task | difference | " + " | ".join(map(_label, LABELS)) + " |", f"|---|---|{'---|' * len(LABELS)}"]
    for task, (one, other) in product(TASKS, pairs):
        cells = []
        for n in LABELS:
            both = [answers.of(arm, task, n) for arm in (one, other)]
            values = [answers.measured(task, found, macro_auc) for found in both if found]
            cells.append(with_interval(values[0] - values[1], sign=True) if len(values) == 2 else "")
        if any(cells):
            lines.append(f"| {task} | {one} minus {other} | {' | '.join(cells)} |")
    return lines


def choice_table(answers: Answers, arms: list[str]) -> list[str]:
    """By how much the default falls short of the best arm of each row: of the networks, and of all."""
    lines = ["| task | labels a class | default | best network | misses | best of all | misses |", f"|{'---|' * 7}"]
    missed = []
    for task, n in product(TASKS, LABELS):
        known = {arm: found for arm in arms if (found := answers.of(arm, task, n))}
        reached = {arm: float(answers.measured(task, found, macro_auc)[0]) for arm, found in known.items()}
        if DEFAULT in reached:
            networks = {arm: auc for arm, auc in reached.items() if not any(part in arm for part in WITH_MASKS)}
            best = [max(some, key=lambda arm, some=some: some[arm]) for some in (networks, reached)]
            missed.append([reached[arm] - reached[DEFAULT] for arm in best])
            cells = [f"{arm} {reached[arm]:.3f} | {gap:.3f}" for arm, gap in zip(best, missed[-1], strict=True)]
            lines.append(f"| {task} | {n or 'all'} | {reached[DEFAULT]:.3f} | {' | '.join(cells)} |")
    if missed:
        lines.append("| mean | | | | {:.3f} | | {:.3f} |".format(*np.mean(missed, axis=0)))
    return lines


def mean_labels(answers: Answers, task: str) -> float:
    """Training cases per class when all are used."""
    counts = []
    for number in answers.splits:
        training, _ = answers.cases(number)
        counts.append(len(few(answers.crops, task, 0, training, number)) / len(TASKS[task]))
    return float(np.mean(counts))


def _label(n: int) -> str:
    return f"n = {n}" if n else "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--out", type=Path, default=Path("label_efficiency"))
    parser.add_argument("--splits", nargs="+", type=int, default=SPLITS)
    arguments = parser.parse_args()
    crops = load(arguments.prepared)
    weights = drawn_patients(int(crops.patients.max()) + 1)
    answers = Answers(crops, arguments.out / "answers", tuple(arguments.splits), weights)
    single = sorted({file.stem.split("_", 3)[3] for file in answers.folder.glob("*.npz")})
    both = [f"{arm}{TOGETHER}handcrafted" for arm in (DEFAULT, "small", "scratch") if arm in single]
    every = [*single, *both]
    seconds = [f"| {arm} | {answers.seconds(arm):.0f} |" for arm in single]
    sections = {
        "Macro AUC": auc_table(answers, every),
        "Differences of the macro AUC": difference_table(answers, PAIRS),
        "The default against the best": choice_table(answers, every),
        "Sensitivity of each class": class_table(answers, every, "sensitivity", sensitivity),
        "AUC of each class against the rest": class_table(answers, every, "AUC", auc_of_class),
        "Seconds per training": ["| arm | median, with other work on the machine |", "|---|---|", *seconds],
    }
    print("\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()))


if __name__ == "__main__":
    main()
