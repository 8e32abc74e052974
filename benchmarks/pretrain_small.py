"""Makes the encoder of ``med-transfer-small``: Astra distilled into resnet18-w32 on unlabelled CT and chest phantoms.

Two steps, so that the second can run on another machine with nothing but a GPU::

    python benchmarks/pretrain_small.py --scans STS_CT --scans CRLM --prepare source.npz
    python benchmarks/pretrain_small.py --source source.npz --minutes 8 --out OUT --device cuda

The defaults are those of the encoder that ships. Without a GPU: ``--batch 16 --minutes 600 --device cpu``.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from med_transfer.phantoms import CLASSES, phantom_volume
from med_transfer.pretraining import (
    CropConfig,
    DistillationConfig,
    LungSceneConfig,
    PretrainingConfig,
    SourceScans,
    pretrain,
    read_source,
)
from med_transfer.scans import Provenance, Volume

STEP_HU = 4
PHANTOM_SHAPE = (64, 160, 160)


def main() -> None:
    arguments = parse()
    if arguments.prepare:
        prepare(arguments)
        return
    torch.backends.cudnn.benchmark = True
    config = PretrainingConfig(
        method="distillation",
        distillation=DistillationConfig(
            teacher_weights=arguments.teacher_weights,
            vicreg=arguments.vicreg,
            calibration_batches=arguments.calibration_batches,
        ),
        crops=CropConfig(flip=(0.5, 0.5, 0.5), cut=(0.5, 0.3)),
        lung_scenes=LungSceneConfig(),
        minutes=None if arguments.steps else arguments.minutes,
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        ema=arguments.ema,
        seed=arguments.seed,
        channels_last=arguments.layout == "channels_last",
    )
    start = time.perf_counter()
    source = read_source(arguments.source)
    if arguments.phantoms:
        source = SourceScans(source.scans + phantoms(arguments.phantoms, seed=0).scans)
    print(f"{len(source)} source scans after {time.perf_counter() - start:.0f} s", flush=True)
    path = pretrain(source, config, arguments.out, arguments.device).encoder
    record = json.loads((arguments.out / "curve.json").read_text())
    for entry in record["curve"][:: max(1, len(record["curve"]) // 40)] + record["curve"][-2:]:
        print(json.dumps(entry))
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    print(
        f"{path}: {path.stat().st_size / 2**20:.2f} MiB, {record['steps']} steps in {record['seconds']} s "
        f"({record['crops_seen'] / max(record['seconds'], 1e-9):.0f} crops/s), "
        f"{time.perf_counter() - start:.0f} s with set-up, {memory:.1f} GiB at most"
    )


def prepare(arguments: argparse.Namespace) -> None:
    """Read the scans and write them to one compressed file, in steps of a few HU, far below the noise of CT."""
    scans = [scan for folder in arguments.scans for scan in read_source(folder, spacing_mm=1.0).scans]
    source = SourceScans(tuple(replace(scan, voxels=coarse(scan.voxels)) for scan in scans))
    arguments.prepare.parent.mkdir(parents=True, exist_ok=True)
    source.save(arguments.prepare)
    print(f"{arguments.prepare}: {len(source)} scans, {arguments.prepare.stat().st_size / 2**20:.1f} MiB")


def coarse(voxels: np.ndarray) -> np.ndarray:
    return (np.rint(voxels / STEP_HU) * STEP_HU).astype(np.int16)


def phantoms(count: int, seed: int) -> SourceScans:
    """Chest phantoms of every class, made on the spot on all cores; the labels are thrown away."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        volumes = list(pool.map(partial(phantom, seed), range(count), chunksize=4))
    return SourceScans.from_volumes(volumes, spacing_mm=1.0)


def phantom(seed: int, number: int) -> Volume:
    labels = [label for names in CLASSES.values() for label in names]
    made = phantom_volume(
        labels[number % len(labels)], seed=seed, patient=number, shape=PHANTOM_SHAPE, difficulty=number % 5 / 4
    )
    return Volume(made.voxels, made.affine, Provenance(Path(f"phantom-{number}"), "nifti"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, action="append", default=[], help="folder of source scans; repeatable")
    parser.add_argument("--phantoms", type=int, default=96, help="number of chest phantoms to add")
    parser.add_argument("--prepare", type=Path, help="write the source here and stop")
    parser.add_argument("--source", type=Path, default=Path("source.npz"), help="prepared source, or a folder of scans")
    parser.add_argument("--teacher-weights", type=Path, help="Astra's file; default: the installed package")
    parser.add_argument("--out", type=Path, default=Path("med-transfer-small"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--steps", type=int, help="fixed number of steps instead of minutes")
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--vicreg", type=float, default=0.05)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--calibration-batches", type=int, default=16)
    parser.add_argument("--layout", choices=("channels_last", "contiguous"), default="channels_last")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
