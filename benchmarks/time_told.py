"""The time that a run is estimated to take, and the time it then took: three runs on real scans.

    python benchmarks/time_told.py --data FOLDER --out runs/told

FOLDER/head_ct/cohort.csv is a table of whole scans, FOLDER/lidc_nodules holds nodules with masks. *frozen* is what
``--quick`` plans for a few of the former in two folds, *repeated folds* for all of them, with pictures of six errors;
*fine-tuned* trains the planned network on nodules for three epochs of 64 draws in two folds. The estimate assumes the
maximum number of epochs; here none stops early. Both are elapsed times: on a busy machine estimate and run see
different loads, so the load at the start is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

from lidc_cohort import write_table

from med_transfer.api.planned import QUICK, planned_config
from med_transfer.cohorts import Cohort
from med_transfer.finetuning import finetune

TINY = (
    *("training.epochs=3", "training.epoch_scans=64", "split.test_fraction=0", "split.folds=2", "split.repeats=1"),
    *("from_scratch_baseline=false", "explain.gallery=0"),
)


def of_each_class(cohort: Cohort, n: int) -> Cohort:
    """The first scans of each class, up to a number."""
    chosen = [[i for i, case in enumerate(cohort.cases) if case.label == name][:n] for name in cohort.labels.names]
    return replace(cohort, cases=tuple(cohort.cases[i] for i in sorted(chain.from_iterable(chosen))))


def told_and_taken(name: str, cohort: Cohort, overrides: tuple[str, ...], out: Path) -> str:
    """One row of the table."""
    load = os.getloadavg()[0]
    planned = planned_config(cohort, overrides)
    started, used = time.monotonic(), time.process_time()
    finetune(cohort, planned.config, out)
    taken, processor = time.monotonic() - started, time.process_time() - used
    told = planned.duration
    parts = f"{told.reading:.0f} + {told.training:.0f}"
    return f"| {name} | {len(cohort)} | {told.seconds:.0f} | {parts} | {taken:.0f} | {processor:.0f} | {load:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/told"))
    parser.add_argument("--each", type=int, default=6, help="scans per class")
    given = parser.parse_args()
    print("| run | scans | estimated, s | reading + training | actual, s | processor, s | load |\n" + "| -- " * 7 + "|")
    heads = of_each_class(Cohort.read(given.data / "head_ct" / "cohort.csv"), given.each)
    table = write_table(given.data / "lidc_nodules", "texture", given.out, with_masks=True)
    small = of_each_class(Cohort.read(table), 2 * given.each)
    frozen = (*QUICK, "split.folds=2", "explain.gallery=0")
    print(told_and_taken("frozen", heads, frozen, given.out / "frozen"), flush=True)
    every = Cohort.read(given.data / "head_ct" / "cohort.csv")
    pictured = (*QUICK, "explain.gallery=6")
    print(told_and_taken("frozen, repeated folds", every, pictured, given.out / "repeated"), flush=True)
    print(told_and_taken("fine-tuned", small, TINY, given.out / "fine-tuned"), flush=True)


if __name__ == "__main__":
    main()
