"""All arms with equal steps on LIDC nodules: texture and malignancy, 10, 30, 100 and all labels per class.

There are too few steps for ``scratch`` with many labels: ``label_savings.py`` measures what labels are worth.

Five splits by patient (40 % of the patients held out), the same splits and cases for every arm:

- ``scratch``, ``small``: the same network (resnet18-w32), random or ``med-transfer-small``; everything else is equal.
- ``small-full``, ``small-lp_ft``, ``small-lora``, ...: the same from ``med-transfer-small``, with a strategy of the
  package at its own rates; ``small-layerwise_lr_decay`` is its default, as is ``astra-layerwise_lr_decay`` for Astra.
  ``lite0-attention``: that default on EfficientNet-Lite0 of ImageNet, attention over 8 slices enlarged to 64 x 64.
- ``astra``: all of Astra fine-tuned, with frozen BatchNorm statistics; slow without a GPU.
- ``probe-random``, ``probe-small``, ``probe-astra``, ``probe-lite0``: logistic regression on frozen features; lite0 is
  EfficientNet-Lite0 of ImageNet, one slice at a time.
- ``diameter``, ``handcrafted``: logistic regression on the diameter, random forest on mask and intensity statistics.

Every answer is a file in ``OUT/answers``; existing answers are not recomputed, so several processes share the work.

    MED_TRANSFER_DATA=DATA python benchmarks/label_efficiency.py --prepare lidc.npz
    python benchmarks/label_efficiency.py --prepared lidc.npz --out OUT --arms scratch small
    python benchmarks/label_efficiency_report.py --prepared lidc.npz --out OUT
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lidc_crops import TASKS, Crops, augmented, balanced, centre, few, load, prepare, split
from lidc_strategies import FINE_SHAPE, SHAPE, TRANSFER, as_input, transferred
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from med_transfer.backbones import InputSpec, LoadedBackbone, load_backbone
from med_transfer.predictions.labels import Labels
from med_transfer.selection.probes import predict_by_probe

BACKBONES = {
    "scratch": "resnet18-w32",
    "small": "med-transfer-small",
    "astra": "astra",
    "random": "resnet18-w32",
    "lite0": "slices-efficientnet-lite0",
}
ARMS = (
    "diameter",
    "handcrafted",
    "probe-random",
    "probe-small",
    "probe-lite0",
    "probe-astra",
    "small",
    "scratch",
    *(f"small-{variant}" for variant in TRANSFER),
    "lite0-attention",
    "astra",
    "astra-layerwise_lr_decay",
)
ALL = 0  # labels per class: all available


@dataclass(frozen=True)
class Setting:
    """How a network is trained."""

    learning_rate: float
    steps: int
    batch: int = 16


@dataclass(frozen=True)
class Job:
    arm: str
    task: str
    n: int
    split: int

    @property
    def file(self) -> str:
        return f"{self.task}_{self.n or 'all'}_{self.split}_{self.arm}.npz"


def setting(job: Job) -> Setting:
    rate = 1e-4 if job.arm == "astra" else 1e-3
    return Setting(rate, steps=120 if 0 < job.n < 100 else 200)


class Network(nn.Module):
    """HU cubes to logits: the backbone's input convention, its encoder, means of the last two stages, linear head."""

    def __init__(self, arm: str, weights: Path | None, seed: int) -> None:
        super().__init__()
        loaded = backbone(arm, weights, seed)
        self.encoder, self.spec, self.frozen_statistics = loaded.encoder, loaded.spec.input, arm == "astra"
        self.head = nn.Linear(sum(self.encoder.stage_channels[-2:]), 3)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        if self.frozen_statistics:
            self.encoder.eval()
        return self

    def forward(self, hu: Tensor) -> Tensor:
        return self.head(features(self.encoder, self.spec, hu))


def backbone(arm: str, weights: Path | None, seed: int) -> LoadedBackbone:
    name = "resnet18-w32" if weights else BACKBONES[arm]
    return load_backbone(name, weights, scratch=arm in ("scratch", "random"), seed=seed)


def features(encoder: nn.Module, spec: InputSpec, hu: Tensor) -> Tensor:
    """Means of the last two stages, [batch, feature]."""
    maps = encoder(as_input(hu, spec))[-2:]
    return torch.cat([m.float().mean((2, 3, 4)) for m in maps], dim=1)


def fine_tuned(
    crops: Crops, job: Job, training: np.ndarray, test: np.ndarray, weights: Path | None, device: torch.device
) -> np.ndarray:
    """Train on a few cases; probabilities of the test cases [case, class]."""
    seed, how = 100 * job.split + job.n, setting(job)
    torch.manual_seed(seed)
    random, choose = torch.Generator(device).manual_seed(seed), np.random.default_rng(seed)
    images = torch.from_numpy(crops.images[training]).to(device).float()[:, None]
    truth = crops.labels[job.task][training]
    network = Network(job.arm, weights, seed).to(device).to(memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    rates = [{"params": network.encoder.parameters(), "lr": how.learning_rate}]
    rates.append({"params": network.head.parameters(), "lr": max(how.learning_rate, 1e-3)})
    optimizer = torch.optim.AdamW(rates, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step / how.steps))
    for _ in range(how.steps):
        cases = balanced(truth, how.batch, choose)
        view = augmented(images[torch.from_numpy(cases).to(device)], random)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(view)
        target = torch.from_numpy(truth[cases]).to(device)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    unseen = torch.from_numpy(crops.images[test]).float()[:, None]
    with torch.no_grad():
        network.eval()
        logits = torch.cat([network(centre(part.to(device))).float() for part in unseen.split(32)])
    return logits.softmax(1).cpu().numpy()


def by_strategy(
    crops: Crops, job: Job, training: np.ndarray, test: np.ndarray, weights: Path | None, device: torch.device
) -> np.ndarray:
    """As :func:`fine_tuned`, with a strategy of the package."""
    name, variant = job.arm.split("-", 1)
    slices, seed, how = name == "lite0", 100 * job.split + job.n, setting(job)
    variant, stages, shape = ("layerwise_lr_decay", (-1,), FINE_SHAPE) if slices else (variant, (-2, -1), SHAPE)
    loaded = backbone(name, weights, seed)
    return transferred(
        loaded, stages, variant, how.steps, how.batch, crops, job.task, training, test, seed, device, shape
    )


def rate_share(progress: float) -> float:
    return min(1.0, (progress + 1e-3) / 0.1) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def probed(
    crops: Crops, job: Job, training: np.ndarray, test: np.ndarray, weights: Path | None, out: Path
) -> np.ndarray:
    """The linear probe of ``med-transfer select``, on all training cases."""
    table, labels = frozen_features(crops, job.arm.removeprefix("probe-"), weights, out), Labels(TASKS[job.task])
    truth = np.eye(len(labels), dtype=bool)[crops.labels[job.task]]
    learn, evaluate = (np.isin(np.arange(len(truth)), cases) for cases in (training, test))
    return predict_by_probe(table, truth, learn, evaluate, labels)


def frozen_features(crops: Crops, name: str, weights: Path | None, out: Path) -> np.ndarray:
    """Features [case, feature], cached in ``out/features``."""
    file = out / "features" / f"{name}.npy"
    if not file.exists():
        loaded = backbone(name, weights, seed=0)
        loaded.encoder.eval()
        images = torch.from_numpy(crops.images).float()[:, None]
        with torch.no_grad():
            parts = [features(loaded.encoder, loaded.spec.input, centre(part)).numpy() for part in images.split(16)]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.concatenate(parts))
    return np.load(file)


def classic(crops: Crops, job: Job, training: np.ndarray, test: np.ndarray) -> np.ndarray:
    truth = crops.labels[job.task][training]
    if job.arm == "diameter":
        size = np.log(crops.diameter_mm)[:, None]
        x, model = np.hstack([size, size**2]), LogisticRegression(class_weight="balanced", max_iter=1000)
    else:
        x = crops.features
        model = RandomForestClassifier(300, class_weight="balanced", min_samples_leaf=2, random_state=0)
    return make_pipeline(StandardScaler(), model).fit(x[training], truth).predict_proba(x[test])


def answer(crops: Crops, job: Job, arguments: argparse.Namespace) -> np.ndarray:
    training, test = split(crops, job.split)
    return learned(crops, job, few(crops, job.task, job.n, training, job.split), test, arguments)


def learned(crops: Crops, job: Job, cases: np.ndarray, test: np.ndarray, arguments: argparse.Namespace) -> np.ndarray:
    """Train on ``cases`` as the job's arm does; probabilities of the cases ``test`` [case, class]."""
    weights = arguments.small_weights if "small" in job.arm else None
    if job.arm in ("diameter", "handcrafted"):
        return classic(crops, job, cases, test)
    if job.arm.startswith("probe-"):
        return probed(crops, job, cases, test, weights, arguments.out)
    train = by_strategy if "-" in job.arm else fine_tuned
    return train(crops, job, cases, test, weights, torch.device(arguments.device))


def main() -> None:
    arguments = parse()
    if arguments.prepare:
        prepare(Path(os.environ["MED_TRANSFER_DATA"]), arguments.prepare)
        return
    torch.set_num_threads(arguments.threads)
    crops, answers = load(arguments.prepared), arguments.out / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    for n, number, task, arm in product(arguments.n, arguments.splits, arguments.tasks, arguments.arms):
        job = Job(arm, task, n, number)
        if (answers / job.file).exists():
            continue
        start = time.perf_counter()
        probabilities = answer(crops, job, arguments)
        seconds = time.perf_counter() - start
        np.savez(answers / job.file, probabilities=probabilities.astype(np.float32), seconds=seconds)
        print(f"{job.file} {seconds:.0f} s", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", type=Path, help="read MED_TRANSFER_DATA, write the crops to this file and exit")
    parser.add_argument("--prepared", type=Path, default=Path("lidc.npz"))
    parser.add_argument("--out", type=Path, default=Path("label_efficiency"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--n", nargs="+", type=int, default=[10, 30, 100, ALL], help="labels per class; 0: all")
    parser.add_argument("--splits", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--small-weights", type=Path, help="instead of the weights that ship")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
