"""One LIDC training with a strategy of the package: its start, what it lets learn, its rates, its penalties.

Batches, augmentation, steps and loss are those of ``label_efficiency.py``, so that arms differ in the strategy alone.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from lidc_crops import TASKS, Crops, augmented, balanced, centre
from torch import Tensor, nn

from med_transfer.backbones import InputSpec, LoadedBackbone, channels_last
from med_transfer.classifier import Classifier
from med_transfer.evaluation.auc import weighted_macro_auc
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.optimisation import optimiser
from med_transfer.finetuning.start import set_head
from med_transfer.pretraining.views import encoder_input, reduce, window
from med_transfer.transfer.batch_norm import adapt_statistics, keep_frozen_statistics
from med_transfer.transfer.linear_head import LinearHead, fit_head
from med_transfer.transfer.probes import patient_folds
from med_transfer.transfer.regularisation import Step, find_penalties
from med_transfer.transfer.strategies import find_strategy

SHAPE = (16, 32, 32)  # 32 mm
FINE_SHAPE = (
    8,
    64,
    64,
)  # for 2D networks, whose deepest maps are a 32nd of their input; finer takes hours without a GPU
STEPS_AN_EPOCH = 10  # what strategies that go by epochs count in
TRANSFER: dict[str, dict] = {
    "layerwise_lr_decay": {},
    "full": {"strategy": "full"},
    "lp_ft": {"strategy": "lp_ft"},
    "lora": {"strategy": "lora"},
    "adapters": {"strategy": "adapters"},
    "gradual_unfreezing": {"strategy": "gradual_unfreezing"},
    "surgical": {"strategy": "surgical", "surgical": {"stages": [3, 4]}},
    "l2_sp": {"strategy": "full", "regularise": ["l2_sp"]},
    "bn_adapt": {"strategy": "full", "batch_norm": "bn_adapt"},
}


def strategy_config(variant: str, steps: int) -> FinetuneConfig:
    """The package's own rates, decays and statistics; a tenth of the steps warms up; no dropout."""
    epochs = steps // STEPS_AN_EPOCH
    training = {"epochs": epochs, "warmup_epochs": epochs / 10, "dropout": 0.0}
    values = {"transfer": TRANSFER[variant], "training": training}
    return FinetuneConfig.model_validate(values).resolved(from_source=True)


def as_input(hu: Tensor, spec: InputSpec, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """HU cubes of 1 mm [batch, 1, z, y, x] in the encoder's own convention."""
    x = window(resized(hu, shape), spec.window_hu, spec.output_range)
    return encoder_input(x, spec, torch.channels_last_3d)


def resized(hu: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Means of slices where the grid is coarser, interpolated where it is finer."""
    depth, height, width = (min(pair) for pair in zip(shape, hu.shape[2:], strict=True))
    hu = reduce(hu, (depth, height, width))
    return hu if hu.shape[2:] == shape else F.interpolate(hu, shape, mode="trilinear", align_corners=False)


def transferred(
    loaded: LoadedBackbone, pooled_stages: tuple[int, ...], variant: str, steps: int, batch: int,
    crops: Crops, task: str, training: np.ndarray, test: np.ndarray, seed: int, device: torch.device,
    shape: tuple[int, int, int] = SHAPE,
) -> np.ndarray:  # fmt: skip
    """Train on the cases ``training``, give the probabilities of the cases ``test`` [case, class]."""
    torch.manual_seed(seed)
    random, choose = torch.Generator(device).manual_seed(seed), np.random.default_rng(seed)
    config, spec = strategy_config(variant, steps), loaded.spec.input
    strategy, truth = find_strategy(config.transfer), crops.labels[task][training]
    images = torch.from_numpy(crops.images[training]).to(device).float()[:, None]
    network = Classifier(loaded.encoder, len(TASKS[task]), pooled_stages, dropout=0.0)
    strategy.check(network.encoder)
    strategy.build(network)
    network = channels_last(network.to(device))
    if config.transfer.batch_norm == "bn_adapt":
        adapt_statistics(network.encoder, (as_input(centre(part), spec) for part in images.split(batch)))
    if strategy.head_from_probe:
        set_head(network, probe_head(network, images, truth, crops.patients[training], spec, shape))
    penalties = find_penalties(config.transfer, network.encoder)
    strategy.begin(network)
    strategy.set_learning(network, config.training.epochs - 1)
    decay = "l2_sp" not in config.transfer.regularise
    adamw, schedule = optimiser(network, config.training, STEPS_AN_EPOCH, decay=decay)
    for step in range(steps):
        if step % STEPS_AN_EPOCH == 0:
            network.train()
            strategy.set_learning(network, step // STEPS_AN_EPOCH)
            keep_frozen_statistics(network.encoder, everywhere=bool(config.training.freeze_norm_statistics))
        cases = balanced(truth, batch, choose)
        x = as_input(augmented(images[torch.from_numpy(cases).to(device)], random), spec, shape)
        maps = network.encoder(x)
        features = network.pool(maps)
        target = torch.from_numpy(truth[cases]).to(device)
        loss = F.cross_entropy(network.head(features), target, label_smoothing=config.training.label_smoothing)
        loss = loss + sum(penalty(Step(network, x, maps, features)) for penalty in penalties)
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.training.gradient_clip)
        adamw.step()
        schedule.step()
    strategy.finish(network)
    unseen = torch.from_numpy(crops.images[test]).float()[:, None]
    with torch.no_grad():
        network.eval()
        logits = torch.cat([network(as_input(centre(part.to(device)), spec, shape)) for part in unseen.split(32)])
    return logits.float().softmax(1).cpu().numpy()


@torch.no_grad()
def probe_head(
    network: Classifier, images: Tensor, truth: np.ndarray, patients: np.ndarray, spec: InputSpec,
    shape: tuple[int, int, int],
) -> LinearHead:  # fmt: skip
    """A logistic head on frozen features; its strength by macro AUC over five folds of the training patients."""
    network.eval()
    x = torch.cat([network.features(as_input(centre(part), spec, shape)) for part in images.split(32)]).cpu().numpy()
    onehot = np.eye(truth.max() + 1, dtype=bool)[truth]
    folds, best = patient_folds(onehot, [str(patient) for patient in patients]), (-1.0, 0.0)
    for strength in strategy_config("lp_ft", STEPS_AN_EPOCH).transfer.probe.inverse_strengths:
        logits = np.zeros(onehot.shape)
        for fold in range(folds.max() + 1):
            head = fit_head(x[folds != fold], onehot[folds != fold], strength, multilabel=False, balanced=True)
            logits[folds == fold] = head.logits(x[folds == fold])
        scores = np.exp(logits - logits.max(1, keepdims=True))
        auc = weighted_macro_auc(onehot, scores / scores.sum(1, keepdims=True), np.ones((1, len(truth))))[0]
        best = max(best, (float(auc), strength), key=lambda found: found[0])
    return fit_head(x, onehot, best[1], multilabel=False, balanced=True)
