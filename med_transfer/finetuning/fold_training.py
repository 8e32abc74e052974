"""Training of one fold model: one network, one validation part. An interrupted training is resumed."""

from __future__ import annotations

import json
import logging
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from monai.data.dataloader import DataLoader
from safetensors.torch import load_file, save

from med_transfer.atomic import sha256_of, write_bytes, write_text
from med_transfer.cohorts.left_behind import left_behind, sealed, unsealed
from med_transfer.errors import ConfigError
from med_transfer.finetuning.alignment import find_alignment
from med_transfer.finetuning.batches import FoldData, loss_weights, training_batches, validation_batches
from med_transfer.finetuning.callbacks.checkpoints import BestWeights, ResumeFile, ResumePoint
from med_transfer.finetuning.callbacks.random_states import RandomStates
from med_transfer.finetuning.callbacks.weight_averaging import WeightAverage, first_averaged_epoch
from med_transfer.finetuning.config import TrainingConfig
from med_transfer.finetuning.early_stopping import LOWER_IS_BETTER
from med_transfer.finetuning.features import FeatureSource
from med_transfer.finetuning.initialisation import initialise
from med_transfer.finetuning.lightning_module import FinetuningModule, LossTerms
from med_transfer.model.classifier import Classifier
from med_transfer.processor import keep_freed_memory
from med_transfer.progress import only_in_log

log = logging.getLogger(__name__)

RESUME_FILE = "resume.ckpt"
WEIGHTS_FILE, HISTORY_FILE = "best.safetensors", "history.json"


@dataclass(frozen=True)
class TrainedNetwork:
    """A classifier with its best weights, in evaluation mode, and its history: one row per epoch.

    ``best_epoch`` counts from 0.
    """

    classifier: Classifier
    history: list[dict[str, float]]
    best_epoch: int


def is_trained(folder: Path) -> bool:
    """Whether the folder holds a finished model, which is loaded and not trained again."""
    return (folder / WEIGHTS_FILE).exists() and (folder / HISTORY_FILE).exists()


def train_network(
    classifier: Classifier,
    data: FoldData,
    reader: FeatureSource,
    folder: Path,
    *,
    seed: int,
    progress: Callback | None = None,
    metadata: Mapping[str, str] | None = None,
) -> TrainedNetwork:
    """Train with early stopping and restore the best weights, as a plain network.

    ``folder`` keeps the state: a finished model is loaded, an interrupted one is resumed from its last saved epoch.

    Args:
        classifier: with the strategy's permanent modules, see ``Strategy.build``; trained in place.
        reader: gives the features of plain scans that a linear head reads, the resolved config and the preprocessing.
        metadata: for the header of the weights file, see :func:`~med_transfer.bundle.provenance.provenance_metadata`.

    Raises:
        UsageError: a file of that state is damaged.
        TrainingDiverged: the network's output or the monitored figure is not finite.
    """
    weights, history_file = folder / WEIGHTS_FILE, folder / HISTORY_FILE
    if is_trained(folder):
        return _trained(classifier, weights, history_file)
    keep_freed_memory()
    L.seed_everything(seed, verbose=False)
    folder.mkdir(parents=True, exist_ok=True)
    history, best_epoch = _learn(classifier, data, reader, folder, seed, progress)
    for parameter in classifier.parameters():
        # The memory layout of loaded weights: otherwise features, and decisions based on them, differ in the last bits.
        parameter.data = parameter.data.contiguous()
    state = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    write_bytes(weights, save(state, metadata=dict(metadata) if metadata else None))
    record = {"history": history, "best_epoch": best_epoch, "weights": sha256_of(weights)}
    write_text(history_file, json.dumps(sealed(record)))
    (folder / RESUME_FILE).unlink(missing_ok=True)
    return TrainedNetwork(classifier.eval(), history, best_epoch)


def _trained(classifier: Classifier, weights: Path, history_file: Path) -> TrainedNetwork:
    with left_behind(history_file):
        record = unsealed(json.loads(history_file.read_text()))
        history, best_epoch, sha256 = record["history"], record["best_epoch"], record.get("weights")
    with left_behind(weights):
        if sha256 not in (None, sha256_of(weights)):  # earlier versions did not record it
            raise ValueError("not as it was written")
        classifier.load_state_dict(load_file(weights))
    return TrainedNetwork(classifier.eval(), history, best_epoch)


def _learn(
    classifier: Classifier,
    data: FoldData,
    reader: FeatureSource,
    folder: Path,
    seed: int,
    progress: Callback | None,
) -> tuple[list[dict[str, float]], int]:
    """Train the classifier in place, up to its best weights; returns the history and the best epoch."""
    config, preprocessing = reader.config, reader.preprocessing
    start = initialise(classifier, data, reader)
    if not config.transfer.strategy.trains:
        row = start.row or {}
        only_in_log(
            log,
            "%s: %s",
            config.transfer.strategy.name,
            ", ".join(f"{name} {value:.4g}" for name, value in row.items()),
        )
        return [row], 0
    batches = training_batches(data, config, preprocessing, seed)
    module = FinetuningModule(
        classifier,
        config,
        LossTerms(
            loss_weights(data.training.truth, config, multilabel=data.labels.multilabel),
            start.penalties,
            find_alignment(config.transfer.align, classifier.n_features),
        ),
        labels=data.labels,
        steps_per_epoch=len(batches),
        seed=seed,
    )
    validation = validation_batches(data.steering.tensors, data.steering.truth, config, preprocessing)
    best = _fit(module, batches, validation, config.training, folder, progress)
    classifier.load_state_dict(best.weights)
    config.transfer.strategy.finish(classifier)
    return module.history, best.epoch


def _fit(
    module: FinetuningModule,
    batches: DataLoader,
    validation: DataLoader,
    training: TrainingConfig,
    folder: Path,
    progress: Callback | None,
) -> BestWeights:
    best, resume_file = BestWeights(first_averaged_epoch(training)), folder / RESUME_FILE
    averaging = [WeightAverage(training)] if training.averaging != "none" else []
    state = [RandomStates(batches, module.random), ResumePoint(resume_file)]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its advice is for developers, not for users
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = _trainer(training, [best, *averaging, *state, *([progress] if progress else [])])
        with _interruptible():
            trainer.fit(
                module, batches, validation, ckpt_path=resume_file if resume_file.exists() else None, weights_only=True
            )
    return best


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make Ctrl-C a KeyboardInterrupt: Lightning exits with code 1 and leaves the process ignoring further Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop


def _trainer(training: TrainingConfig, callbacks: list[Callback]) -> L.Trainer:
    mode = "min" if training.monitor in LOWER_IS_BETTER else "max"
    patience = training.epochs if training.averaging == "swa" else training.patience
    # Checked when validation ends, so that the state saved at the end of the epoch includes its figure.
    stopping = EarlyStopping("monitored", mode=mode, patience=patience, check_on_train_epoch_end=False)
    return L.Trainer(
        max_epochs=training.epochs,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=precision(training.precision),  # type: ignore[arg-type]
        gradient_clip_val=training.gradient_clip,
        callbacks=[*callbacks, stopping],
        logger=False,
        enable_checkpointing=False,
        plugins=[ResumeFile()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def precision(configured: str) -> str:
    """Lightning's name for the precision; ``auto`` is half precision on a GPU and single precision on a CPU.

    On CPUs with bf16 instructions, gradients of 3D convolutions on small maps are read from uninitialised memory
    (docs/decisions/0006-no-bf16-on-a-cpu.md).

    Raises:
        ConfigError: half precision on a CPU.
    """
    gpu = torch.cuda.is_available()
    if configured == "auto":
        configured = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if gpu else "fp32"
    if configured != "fp32" and not gpu:
        raise ConfigError(
            f"found {configured} on a machine without a GPU",
            where="training.precision",
            expected="fp32 or auto: half precision gives wrong gradients on a CPU",
        )
    return {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[configured]
