"""Whole scans with one label each: the choice of ``plan`` against alternatives, all cross-fitted on the same folds.

Each arm is a run of ``finetune``, five times five folds by patient (once if a network is trained or pretrained, which
would take days), with the arm's settings over the planned config; a linear head chooses its own penalty on inner folds.
The handcrafted baseline is that of the planned run. Finished runs are not repeated.

    python benchmarks/whole_scans.py --data FOLDER --out runs/whole head_ct brain_mr --arms plan brain

FOLDER/head_ct/cohort.csv and FOLDER/brain_mr/cohort.csv are tables of whole scans. ``--labels 10 20`` trains on that
many patients per class. The table goes to stdout; ``med-transfer compare`` gives the paired intervals.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from med_transfer.api.planned import planned_config
from med_transfer.cohorts import Cohort
from med_transfer.errors import MedTransferError
from med_transfer.finetuning import finetune
from med_transfer.finetuning.run import Run

COMMON = ("split.test_fraction=0", "split.folds=5", "from_scratch_baseline=false", "explain.gallery=0")
FROZEN = (*COMMON, "split.repeats=5", "transfer.strategy=linear_probe")
ATTENTION = (
    *(*COMMON, "split.repeats=5"),
    *("transfer.strategy=attention_probe", "backbone.instance_pooling=attention"),
)
TRAINED = (*COMMON, "split.repeats=1", "training.monitor=macro_auc", "training.batch_size=4", "training.epoch_scans=96")
AT_160 = (*FROZEN, "split.repeats=1", "input.shape=[30,160,160]")
INTO_NONE = ("backbone.pretraining.only_class=none",)
PAINTED = ("backbone.pretrain=painted_lesions", "backbone.pretraining.steps=400")
ARMS: dict[str, tuple[str, ...]] = {
    "plan": COMMON,
    "photographs": FROZEN,
    "one window": (*FROZEN, "input.channels=[]", "input.window_hu=[0,80]"),
    "brain": (*FROZEN, "input.region=brain"),
    "brain alone": (*FROZEN, "input.region=brain", "input.isolate=true"),
    "160 pixels": AT_160,
    "painted lesions": (*AT_160, *PAINTED),
    "painted lesions, canvas none": (*AT_160, *PAINTED, *INTO_NONE),
    "painted lesions, canvas half of none": (*AT_160, *PAINTED, *INTO_NONE, "backbone.pretraining.canvas_share=0.5"),
    "painted lesions, 224 pixels, three largest": (
        *(*FROZEN, "split.repeats=1", "backbone.instance_pooling=top_k"),
        *(*PAINTED, *INTO_NONE),
    ),
    "three largest of slices": (*FROZEN, "backbone.instance_pooling=top_k"),
    "mean of slices": (*FROZEN, "backbone.instance_pooling=mean"),
    "stretched": (*FROZEN, "backbone.name=med-transfer-small", "input.fit=stretch", "input.shape=[64,96,96]"),
    "stretched, Astra": (*FROZEN, "backbone.name=astra", "input.fit=stretch", "input.shape=[32,96,96]"),
    "attention over slices": ATTENTION,
    "attention over slices, one window": (*ATTENTION, "input.channels=[]", "input.window_hu=[0,80]"),
    "attention over tiles": (*ATTENTION, "backbone.name=tiles-med-transfer-small"),
    "tiles": (*FROZEN, "backbone.name=tiles-med-transfer-small"),
    "slices, attention": (*TRAINED, "backbone.instance_pooling=attention", "transfer.strategy=auto"),
    "tiles, attention": (*TRAINED, "backbone.name=tiles-med-transfer-small", "transfer.strategy=auto"),
    "tiles, scratch": (*TRAINED, "backbone.name=tiles-resnet18-w32", "transfer.strategy=scratch"),
}


def few_labels(cohort: Cohort, n: int | None, seed: int = 0) -> Cohort:
    """A number of patients per class, from the same order for every number."""
    if n is None:
        return cohort
    order = np.random.default_rng(seed).permutation(len(cohort))
    chosen = [[i for i in order if cohort.cases[i].label == name][:n] for name in cohort.labels.names]
    return replace(cohort, cases=tuple(cohort.cases[i] for i in sorted(chain.from_iterable(chosen))))


def run_arm(cohort: Cohort, arm: str, seed: int, folder: Path) -> tuple[Run, float]:
    """The run, and the minutes it took, including the plan."""
    done = folder / "minutes.json"
    started = time.monotonic()
    if not done.exists():
        config = planned_config(cohort, (*ARMS[arm], f"split.seed={seed}", f"seed={seed}")).config
        finetune(cohort, config, folder)
        done.write_text(json.dumps((time.monotonic() - started) / 60))
    return Run(folder), json.loads(done.read_text())


def row(arm: str, run: Run, minutes: float) -> str:
    metrics = json.loads((run.folder / "metrics.json").read_text())
    auc = _with_interval(metrics["macro_auc"])
    classes = "; ".join(f"{name} {_with_interval(one['sensitivity'])}" for name, one in metrics["classes"].items())
    return f"| {arm} | {auc} | {classes} | {minutes:.1f} |"


def _with_interval(figure: dict) -> str:
    low, high = figure["ci95"] or (float("nan"), float("nan"))
    return f"{figure['value']:.3f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/whole"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds and of the training")
    parser.add_argument("--labels", nargs="*", type=int, default=[], help="patients per class; default: all")
    arguments = parser.parse_args()
    for name in arguments.cohorts:
        whole = Cohort.read(arguments.data / name / "cohort.csv")
        for n in arguments.labels or [None]:
            print(f"\n{name}, {n or 'all'} patients a class\n\n| arm | macro AUC | sensitivities | minutes |")
            print("| -- | -- | -- | -- |")
            for arm in arguments.arms:
                folder = arguments.out / f"{name}-{n or 'all'}-{arm.replace(', ', '-').replace(' ', '-')}"
                folder = folder.with_name(f"{folder.name}-seed-{arguments.seed}") if arguments.seed else folder
                try:
                    print(row(arm, *run_arm(few_labels(whole, n), arm, arguments.seed, folder)), flush=True)
                except MedTransferError as error:
                    print(f"| {arm} | not for these scans: {error} | | |", flush=True)


if __name__ == "__main__":
    main()
