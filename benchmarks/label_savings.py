"""How many labels does transfer save, if every arm has its own settings and number of steps?

The LIDC nodules of ``label_efficiency.py``, texture and malignancy; 10, 30, 100 and all labels per class. A fifth of
the patients, the tuning patients, are used neither for training nor for testing; five splits of the others hold out
40 % of them.

- ``scratch`` and ``default``: the same network (resnet18-w32), random and trained as the product's from-scratch
  baseline, or ``med-transfer-small`` with the product's default strategy. Both stop as the product does: after
  ``PATIENCE`` looks (of ``LOOKS`` over ``MAX_STEPS``) without a rise of the smoothed macro AUC of the tuning patients;
  the best look's weights are kept. The rate of each arm and number of labels is the one of ``RATES`` with the highest
  best look, mean of both tasks on split 0.
- ``frozen``, ``astra``: logistic regression on frozen features of ``med-transfer-small`` and of Astra;
  ``handcrafted``: a forest or logistic regression on mask and intensity statistics. For each task and number of labels
  the one of ``SETTINGS`` is used that has the highest macro AUC of the tuning patients, mean of the splits.

Every answer is a file in ``OUT/answers``; existing answers are not recomputed.

    python benchmarks/label_efficiency.py --prepare lidc.npz
    python benchmarks/label_savings.py --prepared lidc.npz --out OUT
    python benchmarks/label_savings_report.py --prepared lidc.npz --out OUT
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_efficiency import frozen_features
from lidc_crops import TASKS, Crops, few, load, split_apart
from lidc_strategies import SHAPE, TrainingSubset, built, learn, prepare, probabilities, strategy_config
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from med_transfer.backbones import load_backbone
from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.model.classifier import Classifier
from med_transfer.processor import keep_freed_memory

ALL = 0  # labels per class: all available
LABELS = (30, ALL, 10, 100)
SPLITS = (0, 1, 2, 3, 4)
NETWORKS = {"scratch": "scratch", "default": "layerwise_lr_decay"}
RATES = {"scratch": (1e-3, 3e-4), "default": (3e-4, 1e-3)}  # scratch at 3e-3 was worse by .02 in an earlier look
MAX_STEPS = {10: 320, 30: 480, 100: 800, ALL: 1280}
LOOKS, PATIENCE, SMOOTHING, BATCH = 16, 8, 0.6, 16
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
LEAVES, SHARES = (1, 2, 4, 8), ("sqrt", 0.5)


@dataclass(frozen=True)
class Cell:
    """One training: arm, task, number of labels, learning rate and maximum number of steps."""

    arm: str
    task: str
    n: int
    split: int
    rate: float
    steps: int

    @property
    def file(self) -> str:
        return f"{self.task}_{self.n or 'all'}_{self.split}_{self.arm}_{self.rate:g}_{self.steps}.npz"


@dataclass
class Watch:
    """Evaluates the tuning patients, keeps the best weights, decides when to stop."""

    look: Callable[[], float]
    network: Classifier
    every: int
    smoothed: list[float] = field(default_factory=list)
    best: dict | None = None

    def __call__(self, step: int) -> bool:
        if step == 0 or step % self.every:
            return False
        figure = self.look()
        past = self.smoothed[-1] if self.smoothed else figure
        self.smoothed.append(SMOOTHING * past + (1 - SMOOTHING) * figure)
        if self.best_look == len(self.smoothed) - 1:
            self.best = copy.deepcopy(self.network.state_dict())
        return len(self.smoothed) - 1 - self.best_look >= PATIENCE

    @property
    def best_look(self) -> int:
        return int(np.argmax(self.smoothed))


def macro_auc(truth: np.ndarray, scores: np.ndarray) -> float:
    return float(weighted_macro_auc(np.eye(scores.shape[1], dtype=bool)[truth], scores, np.ones((1, len(truth))))[0])


def train(crops: Crops, cell: Cell, precision: torch.dtype) -> dict[str, np.ndarray]:
    """Train until the tuning patients' figure stops rising; the best look's probabilities of the test cases."""
    training, tuning, test = split_apart(crops, cell.split)
    cases, seed = few(crops, cell.task, cell.n, training, cell.split), 100 * cell.split + cell.n
    torch.manual_seed(seed)
    config = strategy_config(NETWORKS[cell.arm], cell.steps, cell.rate)
    scratch = cell.arm == "scratch"
    loaded = load_backbone("resnet18-w32" if scratch else "med-transfer-small", scratch=scratch, seed=seed)
    truth = crops.labels[cell.task]
    lesson = TrainingSubset(cubes(crops, cases), truth[cases], crops.patients[cases], config, loaded.spec.input, SHAPE)
    network = built(loaded, (-2, -1), lesson, len(TASKS[cell.task]))
    unseen = cubes(crops, tuning)

    def look() -> float:
        return macro_auc(truth[tuning], probabilities(network, lesson, unseen))

    watch = Watch(look, network, cell.steps // LOOKS)
    learn(network, prepare(network, lesson, BATCH), lesson, BATCH, seed, watch, precision)
    assert watch.best is not None
    network.load_state_dict(watch.best)
    answer = probabilities(network, lesson, cubes(crops, test)).astype(np.float32)
    return {
        "probabilities": answer,
        "curve": np.array(watch.smoothed),
        "best_step": np.array((watch.best_look + 1) * watch.every),
    }


def cubes(crops: Crops, cases: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(crops.images[cases]).float()[:, None]


def settings(arm: str) -> list[Any]:
    """Candidates for an arm that is not a network: scikit-learn classifiers."""
    linear = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=2000))
        for c in STRENGTHS
    ]
    forests = [
        RandomForestClassifier(
            300,
            class_weight="balanced",
            min_samples_leaf=leaf,
            max_features=share,  # pyright: ignore[reportArgumentType]  # a share, too, says scikit-learn
            random_state=0,
        )
        for leaf, share in product(LEAVES, SHARES)
    ]
    return [*linear, *forests] if arm == "handcrafted" else linear


def simple_file(arm: str, task: str, n: int, number: int) -> str:
    return f"{task}_{n or 'all'}_{number}_{arm}.npz"


def fit_simple(crops: Crops, x: np.ndarray, arm: str, task: str, n: int) -> list[dict[str, np.ndarray]]:
    """The answer of every split, with the setting that is best on the tuning patients."""
    truth, tried = crops.labels[task], []
    for model in settings(arm):
        answers, figures = [], []
        for number in SPLITS:
            training, tuning, test = split_apart(crops, number)
            cases = few(crops, task, n, training, number)
            model.fit(x[cases], truth[cases])
            figures.append(macro_auc(truth[tuning], model.predict_proba(x[tuning])))
            answers.append(model.predict_proba(x[test]).astype(np.float32))
        tried.append((float(np.mean(figures)), answers, figures))
    best = max(range(len(tried)), key=lambda k: tried[k][0])
    _, answers, figures = tried[best]
    return [
        {"probabilities": answers[number], "setting": np.array(best), "tuning": np.array(figures[number])}
        for number in SPLITS
    ]


def best_rate(folder: Path, arm: str, n: int) -> float | None:
    """The rate with the highest best look, mean of both tasks on split 0; None until all have been tried."""

    def figure(rate: float) -> float:
        cells = [Cell(arm, task, n, SPLITS[0], rate, MAX_STEPS[n]) for task in TASKS]
        return float(np.mean([np.load(folder / cell.file)["curve"].max() for cell in cells]))

    try:
        return max(RATES[arm], key=figure)
    except FileNotFoundError:
        return None


def cells_to_train(folder: Path, labels: list[int], splits: list[int]) -> list[Cell]:
    """All rates on split 0, then the chosen rate on the other splits."""
    cells = [
        Cell(arm, task, n, SPLITS[0], RATES[arm][k], MAX_STEPS[n])
        for n, k, task, arm in product(labels, range(2), TASKS, NETWORKS)
    ]
    for number, n, task, arm in product(splits, labels, TASKS, NETWORKS):
        if rate := best_rate(folder, arm, n):
            cells.append(Cell(arm, task, n, number, rate, MAX_STEPS[n]))
    return [cell for cell in cells if not (folder / cell.file).exists()]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    crops, answers = load(arguments.prepared), arguments.out / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    for arm in arguments.simple:
        x = crops.features if arm == "handcrafted" else frozen_features(crops, SOURCES[arm], None, arguments.out)
        for task, n in product(TASKS, LABELS):
            if all((answers / simple_file(arm, task, n, number)).exists() for number in SPLITS):
                continue
            for number, answer in enumerate(fit_simple(crops, x, arm, task, n)):
                np.savez(answers / simple_file(arm, task, n, number), **answer)  # pyright: ignore[reportArgumentType]
    precision = torch.bfloat16 if arguments.bf16 else torch.float32
    while cells := cells_to_train(answers, arguments.n, arguments.splits):
        start = time.process_time()
        answer = train(crops, cells[0], precision)
        seconds = time.process_time() - start
        np.savez(answers / cells[0].file, seconds=seconds, **answer)  # pyright: ignore[reportArgumentType]
        print(
            f"{cells[0].file} best step {answer['best_step']}, tuning {answer['curve'].max():.3f}, {seconds:.0f} s",
            flush=True,
        )


SOURCES = {"frozen": "small", "astra": "astra"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--out", type=Path, default=Path("label_savings"))
    parser.add_argument("--simple", nargs="*", default=["handcrafted", *SOURCES], help="arms that are not networks")
    parser.add_argument("--n", nargs="*", type=int, default=list(LABELS), help="labels per class; 0: all")
    parser.add_argument("--splits", nargs="+", type=int, default=list(SPLITS))
    parser.add_argument(
        "--bf16", action="store_true", help="encoder in bf16; only where training_step.py finds it sound"
    )
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
