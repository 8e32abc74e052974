"""One LIDC training with a strategy of the package: its start, what it trains, its rates, its penalties.

Batches, augmentation, steps and loss are those of ``label_efficiency.py``, so that arms differ only in the strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from lidc_crops import TASKS, Crops, augmented, balanced, centre
from scipy.special import softmax
from torch import Tensor, nn

from med_transfer.backbones import InputSpec, LoadedBackbone, channels_last
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.batch_norm import adapt_statistics, keep_frozen_statistics
from med_transfer.finetuning.initialisation import set_head
from med_transfer.finetuning.optimisation import optimiser
from med_transfer.finetuning.regularisation import Penalty, Step, find_penalties
from med_transfer.metrics.auc import weighted_macro_auc
from med_transfer.model.classifier import Classifier
from med_transfer.model.linear_head import LinearHead, fit_head
from med_transfer.predictions.patient_folds import patient_folds
from med_transfer.pretraining.source.views import encoder_input, reduce, window

SHAPE = (16, 32, 32)  # 32 mm
# for 2D networks, whose deepest maps are 1/32 of their input; finer takes hours without a GPU
FINE_SHAPE = (8, 64, 64)
STEPS_AN_EPOCH = 10  # the unit of strategies that count epochs
TRANSFER: dict[str, dict] = {
    "layerwise_lr_decay": {},
    "full": {"strategy": "full"},
    "lp_ft": {"strategy": "lp_ft"},
    "lora": {"strategy": "lora"},
    "adapters": {"strategy": "adapters"},
    "gradual_unfreezing": {"strategy": "gradual_unfreezing"},
    "surgical": {"strategy": {"name": "surgical", "stages": [3, 4]}},
    "l2_sp": {"strategy": "full", "regularise": ["l2_sp"]},
    "delta": {"strategy": "full", "regularise": ["delta"]},
    "bss": {"strategy": "full", "regularise": ["bss"]},
    "bn_adapt": {"strategy": "full", "batch_norm": "bn_adapt"},
}


def strategy_config(variant: str, steps: int, rate: float | None = None) -> FinetuneConfig:
    """The package's own rates (or the given one), decays and statistics; a tenth of the steps warms up; no dropout."""
    epochs, scratch = steps // STEPS_AN_EPOCH, variant == "scratch"
    training = {"epochs": epochs, "warmup_epochs": epochs / 10, "dropout": 0.0}
    transfer = {"strategy": "scratch"} if scratch else TRANSFER[variant]
    if rate:
        transfer = transfer | {"strategy": {"name": variant, "learning_rate": rate}}
    values = {"transfer": transfer, "training": training}
    return FinetuneConfig.model_validate(values).resolved(from_source=not scratch)


def as_input(hu: Tensor, spec: InputSpec, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """HU cubes of 1 mm [batch, 1, z, y, x] in the encoder's input convention."""
    x = window(resized(hu, shape), spec.window_hu, spec.output_range)
    return encoder_input(x, spec, torch.channels_last_3d)


def resized(hu: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Resize: slices averaged where the grid is coarser, interpolated where it is finer."""
    depth, height, width = (min(pair) for pair in zip(shape, hu.shape[2:], strict=True))
    hu = reduce(hu, (depth, height, width))
    return hu if hu.shape[2:] == shape else F.interpolate(hu, shape, mode="trilinear", align_corners=False)


@dataclass(frozen=True)
class TrainingSubset:
    """The training data, the strategy, and the network with its input.

    Attributes:
        images: stored HU cubes [case, 1, 40, 40, 40], on the device.
        truth: class numbers [case].
        patients: one entry per case.
        config: resolved.
        shape: of the input, voxels over 32 mm.
    """

    images: Tensor
    truth: np.ndarray
    patients: np.ndarray
    config: FinetuneConfig
    spec: InputSpec
    shape: tuple[int, int, int]

    def seen(self, hu: Tensor) -> Tensor:
        """The encoder's input for cubes of 32 mm."""
        return as_input(hu, self.spec, self.shape)

    def centres(self, batch: int) -> Iterator[Tensor]:
        """Every case without augmentation, as the encoder's input."""
        return (self.seen(centre(part)) for part in self.images.split(batch))


def transferred(
    loaded: LoadedBackbone,
    pooled_stages: tuple[int, ...],
    variant: str,
    steps: int,
    batch: int,
    crops: Crops,
    task: str,
    training: np.ndarray,
    test: np.ndarray,
    seed: int,
    device: torch.device,
    shape: tuple[int, int, int] = SHAPE,
) -> np.ndarray:
    """Train on the cases ``training``; probabilities of the cases ``test`` [case, class]."""
    torch.manual_seed(seed)
    images = torch.from_numpy(crops.images[training]).to(device).float()[:, None]
    config, truth = strategy_config(variant, steps), crops.labels[task][training]
    lesson = TrainingSubset(images, truth, crops.patients[training], config, loaded.spec.input, shape)
    network = built(loaded, pooled_stages, lesson, len(TASKS[task]))
    learn(network, prepare(network, lesson, batch), lesson, batch, seed)
    config.transfer.strategy.finish(network)
    return probabilities(network, lesson, torch.from_numpy(crops.images[test]).float()[:, None])


def built(loaded: LoadedBackbone, pooled_stages: tuple[int, ...], lesson: TrainingSubset, classes: int) -> Classifier:
    """The classifier as the strategy needs it, on the device of the images."""
    network = Classifier(loaded.encoder, classes, pooled_stages, dropout=0.0)
    lesson.config.transfer.strategy.check(network.encoder)
    lesson.config.transfer.strategy.build(network)
    return channels_last(network.to(lesson.images.device))


@torch.no_grad()
def probabilities(network: Classifier, lesson: TrainingSubset, images: Tensor) -> np.ndarray:
    """Probabilities [case, class] of stored cubes [case, 1, 40, 40, 40] without augmentation."""
    network.eval()
    device = lesson.images.device
    logits = torch.cat([network(lesson.seen(centre(part.to(device)))) for part in images.split(32)])
    return logits.float().softmax(1).cpu().numpy()


def prepare(network: Classifier, lesson: TrainingSubset, batch: int) -> list[Penalty]:
    """Adapted statistics, the probe's head, the strategy's additions, and the penalties towards that start."""
    if lesson.config.transfer.batch_norm == "bn_adapt":
        adapt_statistics(network.encoder, lesson.centres(batch))
    if lesson.config.transfer.strategy.head_from_probe:
        set_head(network, probe_head(network, lesson))
    penalties = find_penalties(lesson.config.transfer, network.encoder)
    lesson.config.transfer.strategy.prepare(network)
    return penalties


def learn(
    network: Classifier,
    penalties: list[Penalty],
    lesson: TrainingSubset,
    batch: int,
    seed: int,
    stop: Callable[[int], bool] = lambda step: False,
    precision: torch.dtype = torch.float32,
) -> None:
    """Train for all steps, or until ``stop(steps made)``, on augmented batches with every class equally often."""
    device, training, transfer = lesson.images.device, lesson.config.training, lesson.config.transfer
    random, choose = torch.Generator(device).manual_seed(seed), np.random.default_rng(seed)
    transfer.strategy.set_learning(network, training.epochs - 1)  # every parameter that is ever trained
    decay = "l2_sp" not in transfer.regularise
    adamw, schedule = optimiser(network, training, transfer.strategy, STEPS_AN_EPOCH, decay=decay)
    for step in range(training.epochs * STEPS_AN_EPOCH):
        if step % STEPS_AN_EPOCH == 0:
            if stop(step):
                return
            network.train()
            transfer.strategy.set_learning(network, step // STEPS_AN_EPOCH)
            keep_frozen_statistics(network.encoder, everywhere=transfer.batch_norm != "train")
        cases = torch.from_numpy(balanced(lesson.truth, batch, choose)).to(device)
        x = lesson.seen(augmented(lesson.images[cases], random))
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            maps = network.encoder(x)
        features = network.pool([m.float() for m in maps])
        target = torch.from_numpy(lesson.truth).to(device)[cases]
        loss = F.cross_entropy(network.head(features), target, label_smoothing=training.label_smoothing)
        loss = loss + sum(penalty(Step(network, x, maps, features)) for penalty in penalties)
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip)
        adamw.step()
        schedule.step()
    stop(training.epochs * STEPS_AN_EPOCH)


@torch.no_grad()
def probe_head(network: Classifier, lesson: TrainingSubset) -> LinearHead:
    """A logistic head on frozen features; its penalty by macro AUC over five folds of the training patients."""
    network.eval()
    x = torch.cat([network.features(part) for part in lesson.centres(32)]).cpu().numpy()
    truth = np.eye(lesson.truth.max() + 1, dtype=bool)[lesson.truth]
    folds = patient_folds(truth, [str(patient) for patient in lesson.patients])

    def judged(strength: float) -> float:
        logits = np.zeros(truth.shape)
        for fold in range(folds.max() + 1):
            head = fit_head(x[folds != fold], truth[folds != fold], strength, multilabel=False, balanced=True)
            logits[folds == fold] = head.logits(x[folds == fold])
        return float(weighted_macro_auc(truth, softmax(logits, axis=1), np.ones((1, len(truth))))[0])

    best = max(lesson.config.transfer.probe.inverse_strengths, key=judged)  # a tie goes to the strongest penalty
    return fit_head(x, truth, best, multilabel=False, balanced=True)
