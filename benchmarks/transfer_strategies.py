"""Every transfer strategy on phantoms: seconds, and macro AUC on test patients.

    python benchmarks/transfer_strategies.py --out /tmp/strategies

A source network learns nine kinds of lesion; the target is three lesion textures. Resumes after a kill.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import med_transfer as mt
from med_transfer.finetuning import FinetuneConfig
from med_transfer.phantoms import PhantomConfig, write_cohort

SOURCE = PhantomConfig(
    task="appearance", patients_per_class=32, scans_per_patient=(1, 1), format="nifti", seed=1, difficulty=0.3
)
TARGET = PhantomConfig(
    task="texture",
    patients_per_class=40,
    scans_per_patient=(1, 1),
    format="mixed",
    seed=2,
    difficulty=0.3,
    faults=True,
)

# A small input and few epochs: minutes on two cores. Lesions are 8 to 28 mm wide, pixels over 3 mm.
_INPUT = {"region": "roi", "shape": [16, 16, 16], "spacing_mm": [2.0, 2.0, 2.0]}
_NETWORK = {"name": "resnet18-w32"}  # random weights: the source is trained here
SOURCE_CONFIG = FinetuneConfig.model_validate(
    {
        "backbone": _NETWORK,
        "input": _INPUT,
        "split": {"kind": "holdout", "test_fraction": 0.1, "val_fraction": 0.15},
        "training": {
            "epochs": 8,
            "epoch_scans": 240,
            "warmup_epochs": 0.5,
            "dropout": 0.0,
            "label_smoothing": 0.0,
            "monitor": "macro_auc",
        },
        # Little augmentation: there are many patients, and each is seen only a few times.
        "augmentation": {
            "strength": 0.4,
            "mixup": 0.0,
            "elastic": 0.0,
            "dropout": 0.0,
            "blur_voxels": 0.0,
            "low_resolution": 0.0,
        },
        "explain": {"gallery": 0},
    }
)
TARGET_CONFIG = FinetuneConfig.model_validate(
    {
        "backbone": _NETWORK,
        "input": _INPUT,
        "split": {"kind": "holdout", "test_fraction": 0.5, "val_fraction": 0.25},
        "training": {"epochs": 10, "epoch_scans": 96, "patience": 6, "monitor": "macro_auc"},
        "augmentation": {"strength": 0.6},
    }
)

VARIANTS: dict[str, dict] = {
    "scratch": {"strategy": "scratch"},
    "linear_probe": {"strategy": "linear_probe"},
    "layerwise_lr_decay (auto)": {"strategy": "layerwise_lr_decay"},
    "full": {"strategy": "full"},
    "lp_ft": {"strategy": "lp_ft"},
    "gradual_unfreezing": {"strategy": "gradual_unfreezing"},
    "surgical, first two stages": {"strategy": {"name": "surgical", "stages": [0, 1]}},
    "surgical, last stage": {"strategy": {"name": "surgical", "stages": [4]}},
    "lora": {"strategy": "lora"},
    "adapters": {"strategy": "adapters"},
    "full + l2_sp": {"strategy": "full", "regularise": ["l2_sp"]},
    "full + delta": {"strategy": "full", "regularise": ["delta"]},
    "full + bss": {"strategy": "full", "regularise": ["bss"]},
    "full, bn_adapt": {"strategy": "full", "batch_norm": "bn_adapt"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    source = mt.finetune(cohort(arguments.out / "source", SOURCE), SOURCE_CONFIG, arguments.out / "source-run")
    target = cohort(arguments.out / "target", TARGET)
    print("| strategy | seed | seconds | macro AUC | balanced accuracy | training minus validation |")
    print("|---|---|---|---|---|---|", flush=True)
    for seed in range(arguments.seeds):
        for name, transfer in VARIANTS.items():
            weights = None if name == "scratch" else source.bundle
            report(
                name,
                seed,
                target,
                settings(transfer, weights, seed),
                arguments.out / f"{name.replace(' ', '-')}-{seed}",
            )


def cohort(folder: Path, config: PhantomConfig) -> Path:
    return folder / "cohort.csv" if (folder / "cohort.csv").exists() else write_cohort(folder, config)


def settings(transfer: dict, weights: Path | None, seed: int) -> FinetuneConfig:
    values = TARGET_CONFIG.model_dump() | {"transfer": transfer, "from_scratch_baseline": False, "seed": seed}
    return FinetuneConfig.model_validate(values | {"backbone": {"weights": weights}})


def report(name: str, seed: int, target: Path, config: FinetuneConfig, out: Path) -> None:
    """One row. Seconds are of training only, from the run's log; reading the scans is the same for all."""
    metrics = mt.finetune(target, config, out).metrics
    auc, sensitivity = metrics.macro_auc, metrics.balanced_accuracy
    gap = metrics.generalisation_gap.difference if metrics.generalisation_gap else None
    cells = (
        name,
        seed,
        f"{training_seconds(out):.0f}",
        interval(auc),
        interval(sensitivity),
        "" if gap is None else f"{gap:+.2f}",
    )
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def training_seconds(run: Path) -> float:
    """From writing the lock, after which training begins, to writing the bundle."""
    return (run / "bundle").stat().st_mtime - (run / "cohort.lock.json").stat().st_mtime


def interval(estimate) -> str:
    low, high = estimate.ci95
    return f"{estimate.value:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
