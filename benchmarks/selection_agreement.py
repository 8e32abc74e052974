"""Does ``med-transfer select`` predict what is best after training, and what does its advice cost?

For each task, number of labels and split of label_efficiency.py, the candidates are measured on the training cases
alone with the functions of ``select``: every layer, the same network with random weights as control, one order. The
truth is the macro AUC on the test cases: of the linear probe (``frozen``), and of the network trained by the default
strategy where every candidate was (``fine-tuned``). Random weights of the default's network are ranked too, though
``select`` uses them only as a control. Advice: the first that beats its own random weights. If none does, a user may
train from scratch, or let ``finetune --on-harm fallback`` decide (selection_fallback.py): one table for each.

    python benchmarks/selection_agreement.py --prepared lidc.npz --out OUT
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import torch
from label_efficiency import BACKBONES
from label_efficiency_report import DEFAULT, LABELS, SPLITS, WITH_MASKS, macro_auc
from lidc_crops import TASKS, Crops, centre, few, load, split
from lidc_strategies import as_input
from scipy.stats import kendalltau
from selection_fallback import verdict

from med_transfer.backbones import find_backbone, load_backbone
from med_transfer.cohorts import Cohort
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.patient_folds import patient_folds
from med_transfer.selection.features import StageFeatures, extract
from med_transfer.selection.measuring import MeasuredLayer, layers_of, measure_layers
from med_transfer.selection.ranking import RankingCriteria, rank
from med_transfer.selection.target import Target

CONTROLS = {"small": "random", "astra": "random-astra", "lite0": "random-lite0"}
RANKED = ("random", *CONTROLS)
FINE_TUNED = {"random": "scratch", "small": DEFAULT, "astra": "astra-layerwise_lr_decay", "lite0": "lite0-attention"}
SCORES = {
    "linear probe, cross-validated": "macro_auc",
    "k-NN": "knn_macro_auc",
    "LogME": "log_me",
    "N-LEEP": "n_leep",
    "H-score": "h_score",
    "TransRate": "trans_rate",
}


Key = tuple[str, int, int]  # task, labels per class, split


@dataclass(frozen=True)
class Cases:
    """The part of a cohort that :func:`measure_layers` reads."""

    truth: np.ndarray
    patients: tuple[str, ...]
    labels: Labels

    def __len__(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class Measured:
    """One candidate on the training cases of a cell: its layers, best first, and its gain over random weights."""

    best: MeasuredLayer
    gain: float
    standard_error: float
    activations_mib: float

    def contender(self, name: str) -> RankingCriteria:
        return self.best.score.criteria(name, self.activations_mib)


@dataclass(frozen=True)
class Cell:
    """The output of ``select`` for one cell.

    Attributes:
        order: of all candidates, best first.
        advice: the first that beats its random weights by more than a standard error; None if none does.
        scores: each measure's value for each candidate.
    """

    order: tuple[str, ...]
    advice: str | None
    scores: dict[str, dict[str, float]]


def stage_features(crops: Crops, name: str, folder: Path) -> list[StageFeatures]:
    """Features of every case; cached in ``folder/stages``."""
    file = folder / "stages" / f"{name}.npz"
    if not file.exists():
        backbone = BACKBONES[name.removeprefix("random-")]
        loaded = load_backbone(backbone, scratch=name.startswith("random"), seed=0)
        loaded.encoder.eval()
        cubes = torch.from_numpy(crops.images).float()[:, None]
        found = [extract(loaded.encoder, as_input(centre(cube[None]), loaded.spec.input)) for cube in cubes]
        tables = {f"stage{k}": np.stack([one.stages[k] for one in found]) for k in range(len(found[0].stages))}
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, activations_mib=found[0].activations_mib, **tables)  # type: ignore[arg-type]
    with np.load(file) as stored:
        activations_mib = float(stored["activations_mib"])
        tables = [stored[f"stage{k}"] for k in range(len(stored.files) - 1)]
    return [StageFeatures(row, None, activations_mib, None, "cpu") for row in zip(*tables, strict=True)]


def cell(crops: Crops, features: dict[str, list[StageFeatures]], task: str, n: int, number: int) -> Cell:
    """Rank the candidates as ``select`` does, on the training cases."""
    training, _ = split(crops, number)
    cases = few(crops, task, n, training, number)
    truth = np.eye(len(TASKS[task]), dtype=bool)[crops.labels[task][cases]]
    cohort = Cases(truth, tuple(str(patient) for patient in crops.patients[cases]), Labels(TASKS[task]))
    target = Target(cast(Cohort, cohort), patient_folds(truth, cohort.patients), (), {}, {})
    best = {name: _best_layer([table[case] for case in cases], name, target) for name, table in features.items()}
    measured = {name: _against_control(name, best, features[name][0].activations_mib) for name in RANKED}
    order = [one.name for one in rank([one.contender(name) for name, one in measured.items()], target.n_patients)]
    worth = [name for name in order if measured[name].gain > measured[name].standard_error]
    scores = {
        measure: {name: float(getattr(one.best.score, key)) for name, one in measured.items()}
        for measure, key in SCORES.items()
    }
    scores |= {"the rule of `select`": {name: -float(order.index(name)) for name in order}}
    return Cell(tuple(order), worth[0] if worth else None, scores)


def _best_layer(features: list[StageFeatures], name: str, target: Target) -> MeasuredLayer:
    spec = find_backbone(BACKBONES[name.removeprefix("random-")])
    return measure_layers(features, layers_of(spec), target)[0]


def _against_control(name: str, best: dict[str, MeasuredLayer], activations_mib: float) -> Measured:
    gain, error = best[name].probe.minus(best[CONTROLS.get(name, name)].probe)
    return Measured(best[name], gain, error, activations_mib)


# Comparison with the truth ------------------------------------------------------------------------------------


def test_auc(crops: Crops, folder: Path, task: str, n: int, number: int, arm: str) -> float | None:
    file = folder / f"{task}_{n or 'all'}_{number}_{arm}.npz"
    if not file.exists():
        return None
    _, test = split(crops, number)
    scores = np.load(file)["probabilities"]
    return float(macro_auc(crops.labels[task][test], scores, np.ones((1, len(test))))[0])


def agreement(scores: dict[str, float], truth: dict[str, float]) -> tuple[float, float]:
    """Kendall's tau-b, and the macro AUC lost by the first choice."""
    names = list(truth)
    tau = np.asarray(kendalltau([scores[name] for name in names], [truth[name] for name in names]))[0]
    chosen = max(names, key=lambda name: scores[name])
    return float(tau), max(truth.values()) - truth[chosen]


def agreement_table(crops: Crops, folder: Path, cells: dict[Key, Cell]) -> list[str]:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    arms = {"frozen": {name: f"probe-{name}" for name in RANKED}, "fine-tuned": FINE_TUNED}
    for (key, one), (kind, of) in product(cells.items(), arms.items()):
        truth = {name: auc for name, arm in of.items() if (auc := test_auc(crops, folder, *key, arm)) is not None}
        if len(truth) == len(of):
            for measure, values in one.scores.items():
                found.setdefault((kind, measure), []).append(agreement(values, truth))
    lines = [
        "| truth | ranked by | cells | Kendall's tau, mean | regret of the first choice, mean (worst) |",
        f"|{'---|' * 5}",
    ]
    for (kind, measure), pairs in found.items():
        tau, regret = np.array(pairs).T
        figures = f"{np.nanmean(tau):.2f} | {regret.mean():.3f} ({regret.max():.3f})"
        lines.append(f"| {kind} | {measure} | {len(pairs)} | {figures} |")
    return lines


def by_fallback(crops: Crops, folder: Path, key: Key) -> str:
    """The arm that ``--on-harm fallback`` keeps."""
    found = verdict(crops, folder.parent / "inner", *key)
    if found is None:
        return "not asked"  # no arm of that name was trained; the table says so
    return "scratch" if found.verdict == "harm" else DEFAULT


def advice_table(crops: Crops, folder: Path, cells: dict[Key, Cell], where_none: Callable[[Key], str]) -> list[str]:
    """The result of following the advice with the default strategy, against the best arm of each row.

    Args:
        where_none: the arm that is trained in a cell without advice.
    """
    lines = ["| task | labels a class | advice | reaches | best network | misses | best of all | misses |"]
    lines.append(f"|{'---|' * 8}")
    arms = sorted({file.stem.split("_", 3)[3] for file in folder.glob("*.npz")})
    missed = []
    for task, n in product(TASKS, LABELS):
        advised = {(task, n, number): cells[task, n, number].advice for number in SPLITS}
        followed = [FINE_TUNED[one] if one else where_none(key) for key, one in advised.items()]
        reached = _mean_auc(crops, folder, task, n, followed)
        counts = Counter(one or "none" for one in advised.values()).most_common()
        row = [task, str(n or "all"), ", ".join(f"{one} {k}" for one, k in counts)]
        if reached is None:
            lines.append(f"| {' | '.join(row)} | not trained | | | | |")
            continue
        known = {arm: auc for arm in arms if (auc := _mean_auc(crops, folder, task, n, [arm] * len(SPLITS)))}
        networks = {arm: auc for arm, auc in known.items() if arm not in WITH_MASKS}
        best = [max(some, key=lambda arm, some=some: some[arm]) for some in (networks, known)]
        missed.append([known[arm] - reached for arm in best])
        row += [f"{reached:.3f}", *(f"{arm} {known[arm]:.3f} | {known[arm] - reached:.3f}" for arm in best)]
        lines.append(f"| {' | '.join(row)} |")
    if missed:
        lines.append("| mean | | | | | {:.3f} | | {:.3f} |".format(*np.mean(missed, axis=0)))
    return lines


def _mean_auc(crops: Crops, folder: Path, task: str, n: int, arms: list[str]) -> float | None:
    """Mean over the splits, for each arm; None if one was not trained."""
    found = [test_auc(crops, folder, task, n, number, arm) for number, arm in zip(SPLITS, arms, strict=True)]
    known = [auc for auc in found if auc is not None]
    return float(np.mean(known)) if len(known) == len(found) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--out", type=Path, default=Path("label_efficiency"))
    arguments = parser.parse_args()
    crops, folder = load(arguments.prepared), arguments.out / "answers"
    names = [*RANKED, *(control for control in CONTROLS.values() if control not in RANKED)]
    features = {name: stage_features(crops, name, arguments.out) for name in names}
    cells: dict[Key, Cell] = {key: cell(crops, features, *key) for key in product(TASKS, LABELS, SPLITS)}
    for (task, n, number), one in cells.items():
        print(f"{task}, {n or 'all'}, split {number}: {' > '.join(one.order)}; advice: {one.advice or 'none'}")
    tables = {
        "order": agreement_table(crops, folder, cells),
        "advice, none taken as scratch": advice_table(crops, folder, cells, lambda key: "scratch"),
        "advice, none taken as --on-harm fallback": advice_table(
            crops, folder, cells, partial(by_fallback, crops, folder)
        ),
    }
    for title, lines in tables.items():
        print(f"\n{title}\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
