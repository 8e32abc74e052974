"""Seconds per draw and peak memory of training on this processor, before and after each speed-up, in one run.

    nice -n 5 python benchmarks/training_speed.py --threads 1

Each row is a process of its own, and the rows take turns for ``--rounds`` rounds; the smallest time counts, since other
work only adds to it. On a busy machine, processor time on one thread says more than elapsed time; in rows that augment
beside the step it lacks the other processes' share. A draw is one augmented scan that a step trains on, or one scan
whose features are computed. Inputs are noise of the size named; every tile and slice is computed. Peak memory is that
of the process over what it had before the first step.

The rows "front from memory" show the most that caching the maps of the frozen stages could save: neither augmentation
nor the frozen stages are computed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from med_transfer.backbones import InstanceChoice, load_backbone
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.augmentation import margin_voxels
from med_transfer.finetuning.batches import FoldData, Part, training_batches
from med_transfer.finetuning.config import FrozenRuntime
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.lightning_module import FinetuningModule, LossTerms
from med_transfer.model.classifier import Classifier
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.preprocessing.config import ChannelConfig
from med_transfer.processor import keep_freed_memory

NODULE, BATCH, STEPS = (16, 32, 32), 16, 3
HEAD = (30, 224, 224)
LABELS = Labels(("a", "b"))
Work = Iterator[int]  # does one piece of work per turn, and returns its number of draws


def config_of(name: str, **sections: dict) -> FinetuneConfig:
    values = {"backbone": {"name": name}, "training": {"batch_size": BATCH, "epoch_scans": 64 * BATCH}} | sections
    return FinetuneConfig.model_validate(values).resolved(from_source=True)


def scans(shape: tuple[int, int, int], n: int, channels: int = 1) -> list[np.ndarray]:
    wide = [size + 2 * margin for size, margin in zip(shape, margin_voxels(shape), strict=True)]
    rng = np.random.default_rng(0)
    return [rng.random((channels, *wide), dtype=np.float32).astype(np.float16) for _ in range(n)]


def steps(*, frozen: int = 0, workers: int = 0, kept: bool = True, front_from_memory: bool = False) -> Work:
    """Training steps of med-transfer-small on crops of a nodule."""
    if kept:
        keep_freed_memory()
    config = config_of(
        "med-transfer-small",
        transfer={"strategy": {"name": "full", "freeze_stages": frozen}},
        training={"batch_size": BATCH, "epoch_scans": 64 * BATCH, "workers": workers},
    )
    preprocessing = PreprocessingConfig(shape=NODULE)
    network = Classifier(load_backbone("med-transfer-small").encoder, 2, (-2, -1))
    truth = np.eye(2, dtype=bool)[np.arange(32) % 2]
    data = FoldData(LABELS, Part(scans(NODULE, 32), [(1.0, 1.0, 1.0)] * 32, truth))
    module = FinetuningModule(network, config, LossTerms(torch.ones(2)), labels=LABELS, steps_per_epoch=64, seed=0)
    module.train()
    optimiser = module.configure_optimizers()["optimizer"]
    module.on_train_epoch_start()
    batches = iter(training_batches(data, config, preprocessing, 0))
    if front_from_memory:
        batches = behind_the_front(network, frozen, next(batches))
    while True:
        loss = module.training_step(next(batches), 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield BATCH


def augmented() -> Work:
    """The batches of a training, without a step."""
    truth = np.eye(2, dtype=bool)[np.arange(32) % 2]
    data = FoldData(LABELS, Part(scans(NODULE, 32), [(1.0, 1.0, 1.0)] * 32, truth))
    config = config_of("med-transfer-small")
    for _ in training_batches(data, config, PreprocessingConfig(shape=NODULE), 0):
        yield BATCH


def behind_the_front(network: Classifier, frozen: int, batch: tuple) -> Iterator[tuple]:
    """The same batch repeatedly, as the last frozen stage returns it; the network starts after that."""
    images, truth = batch
    encoder, front = network.encoder, network.encoder.stages()[:frozen]
    with torch.no_grad():
        maps = [images]
        for stage in front:
            maps.append(stage(maps[-1]))
    behind = encoder.stages()[frozen:]

    def forward(x: torch.Tensor) -> list[torch.Tensor]:
        given = maps[2:]  # the stem's output is not a stage's map
        for stage in behind:
            x = stage(x)
            given = [*given, x]
        return given

    encoder.forward = forward
    while True:
        yield maps[-1], truth


def features(runtime: FrozenRuntime, name: str, shape: tuple[int, int, int], pooling: str = "") -> Work:
    """Features of new scans by a frozen network; the conversion happens in the first turn, which does not count."""
    keep_freed_memory()
    config = config_of(name, transfer={"strategy": "linear_probe"}, training={"batch_size": 2})
    config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"runtime": runtime})})
    channels = 3 if name.startswith("slices") else 1
    loaded = load_backbone(
        name,
        channels="windows" if channels == 3 else 1,
        instances=InstanceChoice(pooling) if pooling else InstanceChoice(),  # type: ignore[arg-type]
    )
    preprocessing = PreprocessingConfig(
        shape=shape,
        channels=tuple(ChannelConfig(column="scan", window_hu=(0, 80 + n)) for n in range(channels)),
    )
    with tempfile.TemporaryDirectory() as folder:
        reader = FeatureSource(Path(folder), config, preprocessing)
        encoder = reader.on_runtime(loaded.encoder, (-1,), scans(shape, 1, channels), runtime)
        images = torch.rand(1, channels, *shape)
        while True:
            with torch.inference_mode():
                encoder.pool(encoder(images), (-1,))
            yield 1


ARMS: dict[str, Callable[[], Work]] = {
    "step, freed memory given back": lambda: steps(kept=False),
    "step, freed memory kept (as it is)": lambda: steps(),
    "augmentation alone": lambda: augmented(),
    "step, augmentation in 1 process beside it": lambda: steps(workers=1),
    "step, augmentation in 2 processes beside it": lambda: steps(workers=2),
    "step, 2 of 5 stages frozen": lambda: steps(frozen=2),
    "step, 2 of 5 stages frozen, front from memory": lambda: steps(frozen=2, front_from_memory=True),
    "step, 4 of 5 stages frozen": lambda: steps(frozen=4),
    "step, 4 of 5 stages frozen, front from memory": lambda: steps(frozen=4, front_from_memory=True),
    "frozen slices, torch": lambda: features("torch", "slices-efficientnet-lite0", HEAD, "mean_max"),
    "frozen slices, OpenVINO": lambda: features("openvino", "slices-efficientnet-lite0", HEAD, "mean_max"),
    "frozen tiles, torch": lambda: features("torch", "tiles-med-transfer-small", (32, 64, 64), "mean_max"),
    "frozen tiles, OpenVINO": lambda: features("openvino", "tiles-med-transfer-small", (32, 64, 64), "mean_max"),
}


def measure(arm: str, threads: int) -> dict[str, float]:
    """Measure in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    started, work = time.perf_counter(), ARMS[arm]()
    before = _peak_mib()
    next(work)
    first, spent, processor = time.perf_counter() - started, [], []
    for _ in range(STEPS):
        began, used = time.perf_counter(), time.process_time()
        draws = next(work)
        processor.append((time.process_time() - used) / draws)
        spent.append((time.perf_counter() - began) / draws)
    return {"seconds": min(spent), "processor": min(processor), "first": first, "mib": _peak_mib() - before}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--arm", choices=list(ARMS), help="measure this row in this process and print JSON")
    given = parser.parse_args()
    if given.arm:
        print(json.dumps(measure(given.arm, given.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in given.only}
    for _ in range(given.rounds):
        for arm in given.only:
            command = [sys.executable, __file__, "--arm", arm, "--threads", str(given.threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {given.threads} threads\n")
    print("| step | ms a draw, elapsed | processor ms | peak MiB | first turn, s |\n| -- | -- | -- | -- | -- |")
    for arm, rounds in found.items():
        clock, processor = (1000 * min(one[key] for one in rounds) for key in ("seconds", "processor"))
        row = f"{clock:.1f} | {processor:.1f} | {max(one['mib'] for one in rounds):.0f}"
        print(f"| {arm} | {row} | {min(one['first'] for one in rounds):.1f} |")


if __name__ == "__main__":
    main()
