"""Random configs from a cohort of phantoms to predictions, and a table of the outcomes.

    python benchmarks/fuzz_configs.py [--count 100] [--first 0]

Each config takes values at the bounds of the schema. It must be refused by an error of the package, or train, and then
its bundle must give the test scans the probabilities of the run, and a run killed at a random step and resumed the same
metrics. Anything else is wrong, and printed with its seed and config.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import contextlib

from command_line import SMALL_SCANS, read_rows, write_rows
from config_corners import drawn

from med_transfer.backbones import load_backbone
from med_transfer.cohorts import Cohort
from med_transfer.errors import MedTransferError
from med_transfer.finetuning import FinetuneConfig, Run, finetune
from med_transfer.finetuning.config import AugmentationConfig, TrainingConfig
from med_transfer.finetuning.strategies import STRATEGIES
from med_transfer.inference import load_bundle
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.model.calibration import CalibrationConfig
from med_transfer.phantoms import PhantomConfig, write_cohort

SAME = 1e-4  # of probabilities: scans are predicted in batches in a run, and one by one by its bundle
SECTIONS: dict[str, type[BaseModel]] = {
    "augmentation": AugmentationConfig,
    "calibration": CalibrationConfig,
    "evaluation": EvaluationConfig,
}
INPUTS = ({}, {"region": "foreground"}, {"normalisation": "zscore"}, {"fit": "isotonic"}, {"spacing_mm": (5, 1, 1)})
RULES = ("balanced_argmax", "argmax", "youden")
UNLIKE = ("seconds", "test_set_access")  # of metrics.json, between two equal runs


@dataclass
class Steps:
    """Progress of a run; interrupts it at a step."""

    stop_at: int = 0
    done: int = 0

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.done += 1
        if self.done == self.stop_at:
            raise KeyboardInterrupt


def config_of(seed: int, weights: Path) -> FinetuneConfig | None:
    """A random config; None if its parts contradict each other."""
    random = np.random.default_rng(seed)
    name = str(random.choice(sorted(STRATEGIES.keys() - {"attention_probe", "scratch"})))
    strategy = {"name": name, "stages": [0, 2]} if name == "surgical" else {"name": name}
    strategy |= drawn(STRATEGIES[name], random, 0.3, {"stages", "freeze_stages"})
    training = {"epochs": int(random.integers(1, 4)), "epoch_scans": 8, "batch_size": int(random.choice([2, 8, 64]))}
    training |= drawn(TrainingConfig, random, 0.25, {*training, "workers", "precision"})
    values = {section: drawn(model, random, 0.2, {"prevalence"}) for section, model in SECTIONS.items()}
    values |= {
        "backbone": {"name": "resnet18-w8", "weights": weights},
        "input": {"shape": (16, 16, 16), "region": "whole"} | INPUTS[random.integers(len(INPUTS))],
        "split": {"folds": 2, "test_fraction": float(random.choice([0, 0.34])), "seed": int(random.integers(2**32))},
        "transfer": {"strategy": strategy, "batch_norm": str(random.choice(["auto", "bn_adapt", "train"]))},
        "training": training,
        "operating_point": {"rule": str(random.choice(RULES))},
        "from_scratch_baseline": bool(random.random() < 0.3),
        "explain": {"gallery": 0},
        "seed": int(random.integers(2**32)),
    }
    try:
        return FinetuneConfig.model_validate(values)
    except ValidationError:
        return None


def metrics_of(run: Run) -> dict:
    """metrics.json without what differs between two equal runs."""
    return {
        key: value for key, value in json.loads((run.folder / "metrics.json").read_text()).items() if key not in UNLIKE
    }


def differences(run: Run, table: Path, out: Path) -> str:
    """How the bundle's probabilities of the test scans differ from those of the run; empty if they do not."""
    of_run = {row["scan"]: row for row in read_rows(run.folder / "predictions.csv")}
    test = [row | {"scan": str(table.parent / row["scan"])} for row in read_rows(table) if row["scan"] in of_run]
    found = read_rows(load_bundle(run.bundle).predict_folder(write_rows(out / "test.csv", test), out / "again").table)
    for row in found:
        own = of_run[Path(row["scan"]).relative_to(table.parent).as_posix()]
        said, again = ([float(one[name]) for name in own if name.startswith("p_")] for one in (own, row))
        if not np.isfinite(said).all() or abs(sum(said) - 1) > SAME:
            return f"probabilities {said}"
        if np.abs(np.subtract(said, again)).max() > SAME:
            return f"probabilities {said}, and {again} by the bundle"
    return "" if len(found) == len(of_run) else f"{len(found)} of {len(of_run)} scans predicted"


def outcome(seed: int, config: FinetuneConfig, table: Path, out: Path) -> str:
    """Refused, trained, or what is wrong."""
    cohort, steps = Cohort.read(table), Steps()
    try:
        run = finetune(cohort, config, out / "run", steps)
        with contextlib.suppress(KeyboardInterrupt):
            finetune(cohort, config, out / "killed", Steps(stop_at=1 + seed % steps.done))
        resumed = finetune(cohort, config, out / "killed")
        if metrics_of(run) != metrics_of(resumed):
            return "wrong: other metrics after it was killed"
        found = differences(run, table, out) if config.split.test_fraction else ""
        return f"wrong: {found}" if found else "trained"
    except MedTransferError as error:
        return f"refused: {type(error).__name__}"
    except Exception as error:
        return f"wrong: {type(error).__name__} {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        table = write_cohort(Path(folder) / "cohort", PhantomConfig(patients_per_class=6, seed=5, **SMALL_SCANS))
        weights = Path(folder) / "source.safetensors"
        encoder = load_backbone("resnet18-w8", scratch=True, seed=3).encoder
        save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, weights)
        for seed in range(arguments.first, arguments.first + arguments.count):
            config = config_of(seed, weights)
            with tempfile.TemporaryDirectory(dir=folder) as out:
                found = "contradictory" if config is None else outcome(seed, config, table, Path(out))
            counts[found.partition(" ")[0] if found.startswith("wrong") else found] += 1
            if config is not None and found.startswith("wrong"):
                print(f"seed {seed}: {found}\n{config.model_dump_json(exclude_defaults=True)}", flush=True)
    print("| outcome | configs |\n| -- | -- |")
    for found, n in counts.most_common():
        print(f"| {found} | {n} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
